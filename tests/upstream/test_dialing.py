"""Why there is no connection: in plain words, which reach clients and so name none of the addresses that were tried."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import pytest
from quotapool.openai import replies
from quotapool.request.refusals import failed
from quotapool.upstream.dialing import Dialer, why_unreachable
from quotapool.upstream.interface import UpstreamFailure

from tests.fakes.valkey import free_port


def certificate_error(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {message} (_ssl.c:1000)")
    error.verify_code, error.verify_message = code, message
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1000)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connect call failed ('10.1.2.3', 9)"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.1.2.3', 9)"), "no route to host"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError("Multiple exceptions: [Errno 111] ('10.1.2.3', 9)"), "none of its addresses can be reached"),
        (ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds"), "it closed the connection"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its name is not known here"),
        (socket.gaierror(socket.EAI_AGAIN, "Try again"), "its name cannot be looked up at this moment"),
        (certificate_error(10, "certificate has expired"), "its certificate has expired"),
        (certificate_error(62, "certificate is not valid for 'gw.corp'."), "its certificate is for another name"),
        (certificate_error(64, "certificate is not valid for '10.1.2.3'."), "its certificate is for another address"),
        (certificate_error(26, "unsupported purpose"), "its certificate is refused (unsupported purpose)"),
        (tls_error("WRONG_VERSION_NUMBER"), "what answers there speaks no TLS"),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "sslv3 alert handshake failure"),
    ],
)
def test_each_reason_has_plain_words(error, words):
    assert why_unreachable(error) == words


async def told(host: str, port: int) -> str:
    """What a client reads."""
    dialer = Dialer(host, port, secure=False, tls=None, connect_s=5.0, proxy=None)
    with pytest.raises(UpstreamFailure) as failure:
        await dialer.open(asyncio.get_running_loop(), None, asyncio.Protocol)
    assert failure.value.reason == "connect"
    refusal = failed(failure.value, final=False)
    assert refusal.error is replies.UPSTREAM_UNREACHABLE
    return str(refusal)


async def test_a_client_reads_no_address_of_what_refused_the_connection():
    port = free_port()
    text = await told("127.0.0.1", port)
    assert "(cannot connect to upstream: connection refused.)" in text
    assert "127.0.0.1" not in text
    assert str(port) not in text


@pytest.mark.parametrize(
    ("second", "words"),
    [("127.0.0.2", "connection refused"), ("255.255.255.255", "none of its addresses can be reached")],
    ids=["for the same reason", "for another reason"],
)
@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop does not ask `socket` for addresses
async def test_a_client_reads_none_of_several_addresses(monkeypatch, second, words):
    port = free_port()

    def found(*_args, **_options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", second)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    text = await told("upstream.invalid", port)
    assert f"(cannot connect to upstream: {words}.)" in text
    assert "127.0.0" not in text
    assert second not in text
