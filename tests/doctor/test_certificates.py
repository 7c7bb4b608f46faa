"""Until when a certificate is valid, and when that is too soon: by the dates in it and the second that it is."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from cryptography import x509
from quotapool.doctor.certificates import in_file, judged, shown_by
from quotapool.doctor.finding import Status

from tests.fakes.certificates import Authority, server_context
from tests.fakes.listening import listening
from tests.fakes.valkey import free_port

DAY = 86_400


@pytest.fixture
def certificate(tmp_path) -> x509.Certificate:
    """It began 30 days ago and ends in 60: a life of 90 days."""
    cert_file, _ = Authority.make(tmp_path).issue(tmp_path, ends=dt.timedelta(days=60))
    (found,) = in_file(cert_file)
    return found


@pytest.mark.parametrize(
    ("before_the_end", "status", "words"),
    [
        (60 * DAY, Status.OK, "60 days more"),
        (14 * DAY + 1, Status.OK, "14 days more"),
        (14 * DAY - 1, Status.WARNING, "13 days more"),
        (DAY + 1, Status.WARNING, "1 day more"),
        (1, Status.WARNING, "0 days more"),
        (0, Status.PROBLEM, "has expired on"),
        (-DAY, Status.PROBLEM, "has expired on"),
        (91 * DAY, Status.PROBLEM, "is valid from"),  # the clock is a day before it begins
    ],
)
def test_its_last_days_are_told(certificate, before_the_end, status, words):
    now = certificate.not_valid_after_utc.timestamp() - before_the_end
    finding = judged("store.certificate", "the certificate", [certificate], now, "Renew it")
    assert finding.status is status
    assert words in finding.text
    assert bool(finding.remedy) is (status is not Status.OK)


def test_one_that_is_made_for_days_is_told_only_in_the_last_third_of_them(tmp_path):
    """Of 31 days, the last ten and a third."""
    cert_file, _ = Authority.make(tmp_path).issue(tmp_path, ends=dt.timedelta(days=1))
    (certificate,) = in_file(cert_file)
    ends = certificate.not_valid_after_utc.timestamp()
    life = ends - certificate.not_valid_before_utc.timestamp()
    for left, status in ((life / 3 + 60, Status.OK), (life / 3 - 60, Status.WARNING)):
        assert judged("store.certificate", "it", [certificate], ends - left, "Renew it").status is status


def test_of_a_chain_the_one_that_ends_first_counts(tmp_path):
    authority = Authority.make(tmp_path)
    (long,) = in_file(authority.issue(tmp_path, ends=dt.timedelta(days=60))[0])
    (short,) = in_file(authority.issue(tmp_path, ends=dt.timedelta(days=20))[0])
    now = short.not_valid_after_utc.timestamp() - DAY
    assert judged("store.certificate", "it", [long, short], now, "Renew it").status is Status.WARNING


async def test_a_server_shows_its_certificate_also_if_nobody_would_trust_it(tmp_path):
    authority, port = Authority.make(tmp_path), free_port()
    context = server_context(authority, tmp_path, ends=dt.timedelta(days=-1))
    async with listening(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port, ssl=context)):
        shown = await shown_by("127.0.0.1", port)
    (written,) = in_file(tmp_path / "tls.crt")
    assert shown == written


async def test_without_tls_or_a_server_there_is_none():
    async with listening(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port := free_port())):
        assert await shown_by("127.0.0.1", port) is None
    assert await shown_by("127.0.0.1", free_port()) is None
