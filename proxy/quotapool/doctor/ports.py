"""The proxy that runs here, if one does, and otherwise whether one could have its two ports."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Final

from quotapool import __version__
from quotapool.app.command_socket import Answer
from quotapool.app.startup import CannotStart, bind
from quotapool.doctor.finding import Finding, ok, problem, warning
from quotapool.settings import Address, Settings

_PATIENCE_S: Final = 3.0
_LONGEST: Final = 500  # characters of why it is not ready
_FREE: Final = "Stop what has it (`ss -ltnp` names it), or choose another port"


async def check(settings: Settings, proxy: Answer | None, silence: str) -> AsyncIterator[Finding]:
    """`silence`: why the proxy on this state_dir, if there is one, could not be asked."""
    if silence:
        yield warning("proxy", silence, "If it stays so, see its log; a proxy that hangs is restarted")
    if proxy is not None:
        yield _version(proxy)
        yield await asyncio.to_thread(_readiness, proxy.head.admin_listen)
    theirs = {proxy.head.listen, proxy.head.admin_listen} if proxy is not None else set()
    for option, address in (("listen", settings.listen), ("admin_listen", settings.admin_listen)):
        if str(address) in theirs and proxy is not None:
            yield ok(option, f"{address} is the proxy's, process {proxy.pid}")
        elif not silence:
            yield await _free(option, address)


def _version(proxy: Answer) -> Finding:
    text = f"runs on {proxy.state_dir} as process {proxy.pid}, version {proxy.head.release}"
    if proxy.head.release == __version__:
        return ok("proxy", text)
    return warning("proxy", f"{text}; this command is {__version__}", "Restart it with the version that is installed")


def _readiness(admin_listen: str) -> Finding:
    """What it answers to whoever asks whether it may be sent requests."""
    host, _, port = admin_listen.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=_PATIENCE_S):
            return ok("proxy.ready", "takes requests")
    except urllib.error.HTTPError as error:
        why_not = error.read(_LONGEST).decode(errors="replace").strip()
        return problem("proxy.ready", f"takes no requests: {why_not}", "See what else is found here, and its log")
    except OSError as error:
        why = str(getattr(error, "reason", None) or error.strerror or error)
        return problem("proxy.ready", f"{admin_listen} does not answer: {why}", "See its log, and restart it")


async def _free(option: str, address: Address) -> Finding:
    try:
        async with contextlib.AsyncExitStack() as stack:
            bind(option, address, stack)
    except CannotStart as error:
        return problem(option, str(error).partition(": ")[2], _FREE)
    return ok(option, f"{address} is free")
