"""The store: whether it is reached, and whether it is fit for a pool. What its server tells is judged elsewhere
(`server_facts.py`); what a user of it may do and how quick it is, is tried."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger as Log

from quotapool import __version__
from quotapool.app.command_socket import Answer
from quotapool.doctor import certificates, keys, server_facts
from quotapool.doctor.finding import Finding, Status, ok, problem, skipped, warning
from quotapool.doctor.store_remedies import remedy_for
from quotapool.domain.counted import counted
from quotapool.domain.observer import Observer
from quotapool.ledger import rights
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.replicas import releases_alive
from quotapool.settings import Settings
from quotapool.store.address import Address, parse
from quotapool.store.embedded import StateDirBusy, attach_url, temporary
from quotapool.store.runtime_dir import RuntimeDirUnsafe
from quotapool.store.store import CALL_S, Store, StoreError, StoreLost, StoreUnavailable, StoreUnfit, connect
from quotapool.store.valkey_process import EmbeddedFailed
from quotapool.store.verify import info_of_each_primary

_PATIENT_S: Final = 2.0  # for one call: a slow store is measured, not given up on
_SLOW_S: Final = 0.05  # as the alert has it, docs/operations.md#the-store-is-slow
_CALLS: Final = 100
_MEASURING_S: Final = 1.5
_SKEW_S: Final = 1.0  # machines on NTP differ by milliseconds
_RIGHTS_PAGE: Final = "docs/managed-redis.md#rights-in-the-store has the rights that suffice"
_OTHER_SERVER: Final = "Use a server that has what docs/managed-redis.md#what-it-must-have says"
_STORE_PAGE: Final = "See docs/operations.md#the-store-is-down"
_UNCHECKED: Final = "rights, scripts, delay, clock, memory and persistence"


async def check(settings: Settings, proxy: Answer | None) -> AsyncIterator[Finding]:
    """The store, and what it has for the start: the vault's keys and who may call."""
    ca_file = str(settings.ca_file) if settings.ca_file else None
    async with contextlib.AsyncExitStack() as stack:
        url = ""
        if settings.redis is not None:
            url = settings.redis.get_secret_value()
            async for finding in _tls(parse(url, ca_file=ca_file)):
                yield finding
        else:
            try:
                url, finding = await _embedded(settings.state_dir, proxy, stack)
            except (EmbeddedFailed, RuntimeDirUnsafe, StateDirBusy, OSError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                finding = problem("store", f"the embedded store does not start: {why}", _embedded_remedy(error))
            yield finding
        store = None
        if url:
            store = connect(url, timeout_s=_PATIENT_S, ca_file=ca_file)
            stack.push_async_callback(store.close)
            yield (reached := await _reached(store))
            if reached.status is Status.OK:
                async for finding in _examined(store, settings):
                    yield finding
            else:
                store = None
        if store is None:
            yield skipped("store.rest", f"{_UNCHECKED} are not checked")
        async for finding in keys.check(settings, store):
            yield finding


async def _reached(store: Store) -> Finding:
    began = time.monotonic()
    try:
        store.check_files()
        await store.check_sentinels()
        await store.ping()
    except StoreUnfit as unfit:
        return problem("store", str(unfit), "Put the file there, or change the URL's options (docs/managed-redis.md)")
    except StoreLost as lost:
        return _lost(store, lost)
    except StoreError as error:
        return problem("store", f"{store.describe()} refuses to answer: {error}", _OTHER_SERVER)
    return ok("store", f"{store.describe()} answers, {_ms(time.monotonic() - began)} with connecting")


async def _examined(store: Store, settings: Settings) -> AsyncIterator[Finding]:
    """All that a store which answers can be asked; it may be lost meanwhile."""
    try:
        async for finding in _tried(store, settings):
            yield finding
    except StoreLost as lost:
        yield _lost(store, lost)
    except StoreError as error:
        yield problem("store", str(error), "Report it with the output of `quotapool --version`")


async def _tried(store: Store, settings: Settings) -> AsyncIterator[Finding]:
    """Raises StoreError."""
    infos = await _infos(store)
    if isinstance(infos, Finding):
        yield infos
    else:
        for where, info in infos:
            for finding in server_facts.judged(info, "the store" if len(infos) == 1 else where):
                yield finding
        if server_facts.is_cluster_node(infos[0][1]) and "+cluster" not in store.describe().partition(":")[0]:
            yield warning(
                "store.cluster",
                f"{store.describe()} is a node of a Cluster, and has keys of only some slots",
                "Name its nodes with redis+cluster:// or rediss+cluster://, unless a proxy in front hides the Cluster",
            )
    lacking = await _lacking(store, settings.pool)
    for finding in lacking:
        yield finding
    if lacking:
        return  # scripts would fail for the same reason
    yield ok("store.rights", "every command is allowed, on all kinds of keys of the pool")
    ledger = Ledger(store, settings.pool, patience_s=0.0, observer=Observer())
    script = await _script(ledger)
    yield script
    if script.status is Status.OK:
        yield await _delay(ledger)
    yield await _clock(store)
    if settings.redis is not None:
        yield _replicas(await releases_alive(store, settings.pool), settings.pool)


async def _infos(store: Store) -> list[tuple[str, dict[str, object]]] | Finding:
    try:
        return await info_of_each_primary(store)
    except StoreLost as lost:
        if lost.reason != "permission":
            raise
        return problem("store.rights", f"INFO is not allowed: {lost.detail}", f"Grant it: {_RIGHTS_PAGE}")


# ---- the embedded store


async def _embedded(state_dir: Path, proxy: Answer | None, stack: contextlib.AsyncExitStack) -> tuple[str, Finding]:
    """Its URL, "" if it must not be started here; and what is to be said of it. Raises what `temporary` raises."""
    if proxy is not None and proxy.head.embedded_url:
        return proxy.embedded_url, ok("store.embedded", f"the embedded store of process {proxy.pid} is used")
    if (url := await asyncio.to_thread(attach_url, state_dir)) is not None:
        return url, ok("store.embedded", f"an embedded store runs on {state_dir}")
    data = state_dir / "valkey"
    if os.geteuid() == 0 and data.exists() and data.stat().st_uid != 0:
        what = f"{data} belongs to another user; started by root, its files could not be read by that user's proxy"
        return "", skipped("store.embedded", f"{what}. Run this as that user")
    if data.exists():
        url = await stack.enter_async_context(temporary(state_dir, log=_silent()))
        return url, ok("store.embedded", f"starts on {state_dir}, and was started for this")
    place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="quotapool-doctor-"))
    stack.callback(_remove, place)
    url = await stack.enter_async_context(temporary(place, log=_silent()))
    return url, ok("store.embedded", f"starts, tried in {place.parent}; {state_dir} has none yet")


def _silent() -> Log:
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
    return log


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def _embedded_remedy(error: Exception) -> str:
    if isinstance(error, StateDirBusy):
        return "Stop that process, or choose another state_dir"
    if isinstance(error, EmbeddedFailed):
        return "See its log, state_dir/valkey.log; or name a server of your own in redis:"
    return "Make state_dir a place that this user may write to, or name a server of your own in redis:"


# ---- on the way to it


async def _tls(address: Address) -> AsyncIterator[Finding]:
    if address.tls is None:
        if any(not _is_near(host) for host, _ in address.hosts):
            yield ok("store.tls", "without TLS: whoever can read this network reads what the pool stores")
        return
    if not address.tls.verify:
        yield warning(
            "store.tls",
            "the store's certificate is not verified (ssl_cert_reqs=none): anybody on the way could be the store",
            "Name the authority's file with ?ssl_ca_certs= or ca_file, and leave ssl_cert_reqs out",
        )
    client = (address.tls.cert_file, address.tls.key_file) if address.tls.cert_file else None
    shown = await asyncio.gather(*(certificates.shown_by(*host, client=client) for host in address.hosts))
    for (host, port), certificate in zip(address.hosts, shown, strict=True):
        if certificate is not None:
            whose = f"the certificate of {host}:{port}"
            yield certificates.judged("store.certificate", whose, [certificate], time.time(), "Renew it at the store")


def _is_near(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _lost(store: Store, lost: StoreLost) -> Finding:
    why = lost.detail.removesuffix(".")  # the remedy follows as another sentence
    return problem("store", f"{store.describe()} cannot be used ({lost.reason}): {why}", remedy_for(lost))


# ---- what is tried


async def _lacking(store: Store, pool: str) -> list[Finding]:
    """Each command on keys of each kind, for real: not every server knows ACL DRYRUN, and whom it knows may not ask."""
    families = rights.families(pool)

    async def tried(prefix: str) -> list[str] | StoreError:
        try:
            return await rights.refused(store, prefix)
        except StoreLost as lost:
            if lost.reason not in {"permission", "read_only", "out_of_memory", "disk", "server"}:
                raise
            return lost
        except StoreError as error:
            return error

    answers = dict(zip(families, await asyncio.gather(*map(tried, families)), strict=True))
    by_answer: dict[tuple[str, str], dict[str, None]] = {}  # and the prefixes, each once
    granting = f"Grant it to the user in redis: {_RIGHTS_PAGE}"
    for prefix, answer in answers.items():
        if isinstance(answer, StoreError):
            text = (answer.detail if isinstance(answer, StoreLost) else str(answer)).partition(", with args")[0]
            remedy = _OTHER_SERVER if "unknown command" in text else granting
            by_answer.setdefault((f"scripts cannot be run: {text}", remedy), {})[prefix] = None
        for line in answer if isinstance(answer, list) else ():
            command, _, words = line.partition(" ")
            by_answer.setdefault((f"{command} is refused: {words.strip()}", granting), {})[prefix] = None
    return [
        problem("store.rights", text + ("" if len(on) == len(families) else f" (keys {', '.join(on)})"), remedy)
        for (text, remedy), on in by_answer.items()
    ]


async def _script(ledger: Ledger) -> Finding:
    """That of requests, with nothing to do: it notes an answer that the store forgets after two minutes."""
    try:
        await ledger.check()
    except StoreUnavailable as error:
        lost = error.__cause__
        remedy = remedy_for(lost) if isinstance(lost, StoreLost) else _STORE_PAGE
        text = lost.detail if isinstance(lost, StoreLost) and lost.detail else str(error)
        return problem("store.script", f"the script of requests does not run: {text}", remedy)
    except StoreError as error:
        return problem("store.script", f"the script of requests does not run: {error}", _OTHER_SERVER)
    return ok("store.script", "the script of requests runs, and may write")


async def _delay(ledger: Ledger) -> Finding:
    """Calls of that script, one after another; each request waits for one."""
    took: list[float] = []
    ends = time.monotonic() + _MEASURING_S
    try:
        while not took or (len(took) < _CALLS and time.monotonic() < ends):
            began = time.monotonic()
            await ledger.check()
            took.append(time.monotonic() - began)
    except StoreUnavailable as error:
        return problem("store.delay", f"call {len(took) + 1} of the script failed: {error}", _SLOW)
    return judged_delay(took)


def judged_delay(took: Sequence[float]) -> Finding:
    """By the seconds that calls of the script took, at least one; p50 and p99 by nearest rank, so that of a hundred
    calls one may be an exception."""
    ranked = sorted(took)
    half, most = (ranked[math.ceil(len(ranked) * part) - 1] for part in (0.5, 0.99))
    calls = f"{len(ranked)} calls of the script: p50 {_ms(half)}, p99 {_ms(most)}; a call has {_ms(CALL_S)}"
    if most >= CALL_S:
        return problem("store.delay", f"{calls}, so it would often count as down", _SLOW)
    return warning("store.delay", calls, _SLOW) if most >= _SLOW_S else ok("store.delay", calls)


_SLOW: Final = "Put the store next to the proxy, and see docs/operations.md#the-store-is-slow"


async def _clock(store: Store) -> Finding:
    """By the quickest of some answers: it is the most exact."""
    best, ahead = 60.0, 0.0
    for _ in range(5):
        before, at = time.monotonic(), time.time()
        seconds, micros = await store.guard(store.client.time())
        took = time.monotonic() - before
        if took < best:
            best, ahead = took, seconds + micros / 1e6 - (at + took / 2)
    text = f"the store's clock is {abs(ahead):,.3f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) - best / 2 > _SKEW_S:
        return warning("store.clock", text, "Keep both on NTP: docs/clocks.md says what goes by which clock")
    return ok("store.clock", text)


def _replicas(releases: Counter[str], pool: str) -> Finding:
    """Processes that serve the pool, by version."""
    if not releases:
        return ok("replicas", f"no proxy serves the pool {pool} now")
    shown = ", ".join(f"{count} of {version or 'an older version'}" for version, count in sorted(releases.items()))
    serve = f"{counted(releases.total(), 'worker')} serve{'s' * (releases.total() == 1)}"
    text = f"{serve} the pool {pool}: {shown}; this is {__version__}"
    if set(releases) == {__version__}:
        return ok("replicas", text)
    return warning("replicas", text, "Bring all to one version, unless an upgrade is under way (docs/upgrading.md)")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 0.1 else f"{seconds * 1000:,.0f} ms"
