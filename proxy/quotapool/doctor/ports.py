"""The proxy that runs here, if one does, and otherwise whether one could have its two ports; and the certificate that
clients see."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Final, Literal

from quotapool import __version__
from quotapool.app.command_socket import Answer
from quotapool.app.startup import CannotStart, bind
from quotapool.doctor import certificates
from quotapool.doctor.finding import Check, Finding, ok, problem, skipped, warning
from quotapool.settings import Address, Settings
from quotapool.settings.tls import Tls

_Port = Literal["listen", "admin_listen"]
_PATIENCE_S: Final = 3.0
_LONGEST: Final = 500  # characters of why it is not ready
_ON_THIS_MACHINE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
_FREE: Final = "Stop what has it (`ss -ltnp` names it), or choose another port"


async def check(settings: Settings, proxy: Answer | None, silence: str) -> AsyncIterator[Finding]:
    """`silence`: why the proxy on this state_dir, if there is one, could not be asked."""
    if silence:
        yield warning("proxy", silence, "If it stays so, see its log; a proxy that hangs is restarted")
    if proxy is not None:
        yield _version(proxy)
        yield await asyncio.to_thread(_readiness, proxy.head.admin_listen)
    theirs = {proxy.head.listen, proxy.head.admin_listen} if proxy is not None else set()
    addresses: dict[_Port, Address] = {"listen": settings.listen, "admin_listen": settings.admin_listen}
    for option, address in addresses.items():
        if str(address) in theirs and proxy is not None:
            yield ok(option, f"{address} is the proxy's, process {proxy.pid}")
        elif not silence:
            yield await _free(option, address)
    if settings.tls is not None:
        yield await asyncio.to_thread(_certificate, settings.tls)
        if proxy is not None and (other := await _other_certificate(settings.tls, proxy.head.listen)) is not None:
            yield other


def _version(proxy: Answer) -> Finding:
    text = f"runs on {proxy.state_dir} as process {proxy.pid}, version {proxy.head.release}"
    if proxy.head.release == __version__:
        return ok("proxy", text)
    return warning("proxy", f"{text}; this command is {__version__}", "Restart it with the version that is installed")


def _readiness(admin_listen: str) -> Finding:
    """What it answers to whoever asks whether it may be sent requests."""
    try:
        with urllib.request.urlopen(f"http://{_reachable(admin_listen)}/readyz", timeout=_PATIENCE_S):
            return ok("proxy.ready", "takes requests")
    except urllib.error.HTTPError as error:
        why_not = error.read(_LONGEST).decode(errors="replace").strip()
        return problem("proxy.ready", f"takes no requests: {why_not}", "See what else is found here, and its log")
    except OSError as error:
        why = str(getattr(error, "reason", None) or error.strerror or error)
        return problem("proxy.ready", f"{admin_listen} does not answer: {why}", "See its log, and restart it")


def _reachable(address: str) -> str:
    """An address of this machine for one that may stand for all of its addresses."""
    host, _, port = address.rpartition(":")
    return f"{_ON_THIS_MACHINE.get(host, host)}:{port}"


async def _free(option: _Port, address: Address) -> Finding:
    try:
        async with contextlib.AsyncExitStack() as stack:
            bind(option, address, stack)
    except CannotStart as error:
        return problem(option, str(error).partition(": ")[2], _FREE)
    return ok(option, f"{address} is free")


# ---- our own certificate


def _certificate(tls: Tls) -> Finding:
    check: Check = "listen.certificate"
    if (wrong := tls.problem()) is not None:
        return problem(check, f"tls.{wrong[0]} {wrong[1]}", "Correct the file; a running proxy keeps the one it has")
    try:
        found = certificates.in_file(tls.cert_file)
    except (OSError, ValueError):
        return skipped(check, f"the dates in {tls.cert_file} cannot be read")
    remedy = "Renew it; a changed file is taken without a restart"
    return certificates.judged(check, f"the certificate in {tls.cert_file}", found, time.time(), remedy)


async def _other_certificate(tls: Tls, listen: str) -> Finding | None:
    """What is to be said if the proxy shows another one than is in the file; None: nothing."""
    host, _, port = _reachable(listen).rpartition(":")
    shown = await certificates.shown_by(host.strip("[]"), int(port))
    try:
        written = (await asyncio.to_thread(certificates.in_file, tls.cert_file))[0]
    except (OSError, ValueError):
        return None
    if shown is None or shown == written:
        return None
    what = (
        f"the proxy shows clients a certificate until {shown.not_valid_after_utc:%Y-%m-%d}, not that in {tls.cert_file}"
    )
    return warning("listen.certificate", what, "See its log: a file that cannot be used is not taken; or restart it")
