"""Every upstream's address: its name, the way there, TLS, an answer. Without a key, so nothing is spent or counted."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from quotapool import __version__
from quotapool.doctor import certificates
from quotapool.doctor.finding import Finding, ok, problem, skipped, warning
from quotapool.domain.verdict import Kind
from quotapool.openai.classify import classify
from quotapool.settings import Settings
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.dialing import Dialer, why_unreachable
from quotapool.upstream.interface import Answer, Timeouts, UpstreamFailure, read_body
from quotapool.upstream.tls_sessions import client_context
from quotapool.upstream.tunnel import ForwardProxy

_MOST: Final = 20  # addresses
_SECONDS: Final = Timeouts(connect=5.0, first_byte=5.0, between_bytes=3.0)
_LARGEST: Final = 64 * 1024
_PATH: Final = "/v1/models"
_SKEW_S: Final = 5.0  # a Date has whole seconds, and the answer was under way
_EGRESS: Final = "docs/operations.md#our-network-is-refused"
_REMEDIES: Final = {
    "connect": f"See whether a firewall is between, or a forward proxy is needed (upstream_proxy): {_EGRESS}",
    "tls": f"Name the authority in ca_file if a gateway opens TLS, and check this machine's clock: {_EGRESS}",
    "timeout": f"See whether a firewall drops what is sent, or a forward proxy is needed (upstream_proxy): {_EGRESS}",
    "protocol": "What answers there speaks no HTTP/1.1: correct the address",
    "reset": f"Something on the way closes connections: {_EGRESS}",
}


async def check(settings: Settings) -> AsyncIterator[Finding]:
    """The pool's upstream first, then those of single keys, then that of admin keys."""
    bases = [settings.upstream, *(key.upstream.url for key in settings.keys if key.upstream is not None)]
    if settings.admin_keys and settings.admin_upstream is not None:
        bases.append(settings.admin_upstream)
    distinct = list(dict.fromkeys(bases))
    for findings in await asyncio.gather(*(_examined(settings, base) for base in distinct[:_MOST])):
        for finding in findings:
            yield finding
    if len(distinct) > _MOST:
        yield skipped("upstream", f"{len(distinct) - _MOST} further addresses are not checked")


async def _examined(settings: Settings, base: str) -> list[Finding]:
    proxy = settings.proxy_for(base)
    try:
        tls = client_context(settings.ca_file)
    except OSError as error:
        why = error.strerror or type(error).__name__
        return [problem("upstream", f"ca_file cannot be used: {why}", "Correct the file, in PEM format")]
    client = UpstreamClient(base, _SECONDS, tls=tls, proxy=proxy)
    try:
        url = urlsplit(proxy or base)
        if (unknown := await _unknown_host(url.hostname or "")) is not None:
            whose = "the forward proxy's host" if proxy else "its host"
            what = f"{base} is not reached: {whose} {url.hostname} has no address here: {unknown}"
            return [problem("upstream", what, "Correct the name, or this machine's name resolution (/etc/resolv.conf)")]
        began = time.monotonic()
        headers = [(b"Accept", b"*/*"), (b"User-Agent", f"quotapool/{__version__} doctor".encode())]
        answer = await client.send("GET", _PATH, headers, None)
        took = time.monotonic() - began
        findings = [await _judged(base, answer, took, "through the forward proxy" if proxy else "directly")]
        if (date := answer.headers.get("date")) is not None and (clock := _clock(base, date, time.time())) is not None:
            findings.append(clock)
    except UpstreamFailure as failure:
        remedy = _REMEDIES.get(failure.reason, f"See {_EGRESS}")
        return [problem("upstream", f"{base} is not reached: {failure}", remedy)]
    finally:
        await client.close()
    if base.startswith("https:") and (certificate := await _certificate(base, proxy, tls)) is not None:
        whose = f"the certificate of {base}"
        remedy = "Tell who runs that server; after that day no connection is made"
        findings.append(certificates.judged("upstream.certificate", whose, [certificate], time.time(), remedy))
    return findings


async def _unknown_host(host: str) -> str | None:
    """Why a name has no address; None: it has."""
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as error:
        return why_unreachable(error)
    return None


async def _judged(base: str, answer: Answer, took: float, how: str) -> Finding:
    body = await read_body(answer, _LARGEST)
    answer.close()
    verdict = classify(answer.status, answer.headers, body)
    text = f"{base} answers {answer.status} without a key, {how}, {took * 1000:,.0f} ms with connecting"
    if verdict.kind is Kind.EGRESS:
        why = f"{base} refuses this network ({answer.status} {verdict.reason})"
        return problem("upstream", why, f"Repair the way out, or take another one: {_EGRESS}")
    if answer.status >= 500:
        return warning("upstream", text, "It fails at this moment: docs/operations.md#upstream-is-failing")
    return ok("upstream", text)


def _clock(base: str, date: str, now: float) -> Finding | None:
    try:
        ahead = parsedate_to_datetime(date).timestamp() - now
    except ValueError:
        return None
    text = f"the clock of {base} is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) > _SKEW_S:
        return warning("upstream.clock", text, "Keep this machine on NTP: docs/clocks.md says what goes by its clock")
    return ok("upstream.clock", text)


async def _certificate(base: str, proxy: str | None, tls: ssl.SSLContext) -> x509.Certificate | None:
    """That of a connection of its own, by the same way; None if there is none now."""
    url = urlsplit(base)
    dialer = Dialer(
        url.hostname or "",
        url.port or 443,
        secure=True,
        tls=tls,
        connect_s=_SECONDS.connect,
        proxy=None if proxy is None else ForwardProxy.at(proxy),
    )
    try:
        transport, _ = await dialer.open(asyncio.get_running_loop(), None, asyncio.Protocol)
    except UpstreamFailure:
        return None
    try:
        raw = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(raw) if raw else None
    finally:
        transport.abort()
