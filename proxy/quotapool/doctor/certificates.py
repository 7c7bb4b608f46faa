"""Until when certificates are valid: those that servers show, and those in files."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from quotapool.doctor.finding import Check, Finding, ok, problem, warning

_SOON_DAYS: Final = 14
_LAST_PART: Final = 1 / 3  # of its life: authorities advise to renew then, and some certificates live for six days
_DAY_S: Final = 86_400


def judged(check: Check, whose: str, certificates: Iterable[x509.Certificate], now: float, remedy: str) -> Finding:
    """By the certificate that ends first. `now`: Unix seconds."""
    first = min(certificates, key=lambda each: each.not_valid_after_utc)
    begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
    left_s = ends.timestamp() - now
    day = f"{ends:%Y-%m-%d}"
    if left_s <= 0:
        return problem(check, f"{whose} has expired on {day}", remedy)
    if begins.timestamp() > now:
        what = f"{whose} is valid from {begins:%Y-%m-%d %H:%M} UTC on, and here it is {_shown(now)}"
        return problem(check, what, "Set this machine's clock (NTP), or renew the certificate")
    text = f"{whose} is valid until {day}, {_days(left_s)} more"
    if left_s < _SOON_DAYS * _DAY_S and left_s < _LAST_PART * (ends - begins).total_seconds():
        return warning(check, text, remedy)
    return ok(check, text)


def in_file(path: Path) -> list[x509.Certificate]:
    """Those in a PEM file. Raises OSError, ValueError."""
    return x509.load_pem_x509_certificates(path.read_bytes())


async def shown_by(
    host: str, port: int, *, client: tuple[str, str | None] | None = None, seconds: float = 3.0
) -> x509.Certificate | None:
    """The certificate of a server, also one that nobody would trust; None if it shows none. `client`: files of a
    certificate and key of our own, for a server that asks for them. Nothing is sent over the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever sends something over a connection verifies it on its own
    with contextlib.suppress(OSError, ValueError, TimeoutError):
        if client is not None:
            context.load_cert_chain(*client, password=lambda: b"")
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        try:
            raw = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(raw) if raw else None
        finally:
            writer.transport.abort()
    return None


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _days(seconds: float) -> str:
    days = int(seconds // _DAY_S)
    return "1 day" if days == 1 else f"{days} days"
