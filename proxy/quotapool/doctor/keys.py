"""The pool's keys and who may use them: the master key, the vault that it opens, and a port that is open to others."""

from __future__ import annotations

from collections.abc import AsyncIterator

from quotapool.doctor.finding import Finding, ok, problem, skipped, warning
from quotapool.domain.counted import counted
from quotapool.keys.master_keys import NoMasterKey, master_keys, own_file
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.ledger.clients import ClientStore
from quotapool.settings import Settings
from quotapool.store.store import Store, StoreError

_MASTER_PAGE = "docs/operations.md#the-master-key"


async def check(settings: Settings, store: Store | None) -> AsyncIterator[Finding]:
    """`store` None: it is not reached."""
    yield _master_key(settings)
    if store is None:
        yield skipped("keys.vault", "keys that were added at run time are not checked: the store is not reached")
        if (refused := settings.bind_problem()) is not None:
            yield warning("clients", _first_line(refused), "Reach the store first: clients may be there")
        return
    try:
        async for finding in _in_store(settings, store):
            yield finding
    except StoreError as error:
        yield skipped("keys.vault", f"the vault could not be read: {error}")


def _master_key(settings: Settings) -> Finding:
    try:
        masters = master_keys(settings)
    except NoMasterKey as error:
        return problem("keys.master_key", str(error), f"Give the one that sealed the vault: {_MASTER_PAGE}")
    except OSError as error:  # of state_dir: its own check says what to do
        return skipped("keys.master_key", f"{own_file(settings)} cannot be read: {error.strerror}")
    if masters:
        places = [
            name
            for name, is_given in (
                ("master_key", settings.master_key is not None),
                (str(settings.master_key_file), settings.master_key_file is not None),
                (str(own_file(settings)), settings.redis is None and own_file(settings).exists()),
            )
            if is_given
        ]
        return ok("keys.master_key", f"{masters[0].id}, of {' and '.join(places)}")
    if settings.redis is None:
        return ok("keys.master_key", "there is none; one is made when it is first needed")
    if settings.cache.models:
        text = "there is none, so the cache keeps no answers, and no key can be added at run time"
        return warning("keys.master_key", text, f"Make one and give it to every replica: {_MASTER_PAGE}")
    return ok("keys.master_key", "there is none; adding keys at run time needs one that every replica has")


class _NoLog:
    """For KeySources, whose `problem` is shown here."""

    def warning(self, event: str) -> None: ...
    def error(self, event: str) -> None: ...


async def _in_store(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    sources = KeySources(Vault(store, settings.pool), settings, log=_NoLog())
    await sources.read()
    merged = sources.merged()
    stored = len(sources.contents.records)
    if sources.problem:
        text = f"{sources.problem}. Not served: {len(sources.missing)} of {counted(stored, 'key')}"
        yield problem("keys.vault", text, f"See {_MASTER_PAGE}")
    elif stored:
        yield ok("keys.vault", f"opens: {counted(stored, 'key')} {'was' if stored == 1 else 'were'} added at run time")
    else:
        yield ok("keys.vault", "is empty: no key was added at run time")
    if not merged.keys and not sources.missing:
        yield warning("keys", "the pool has no key, so it can serve nobody", "Add one: `quotapool keys add`, or keys:")
    if (refused := merged.bind_problem()) is not None:
        if clients := await ClientStore(store, settings.pool).all():
            have = f"{counted(len(clients), 'client')} {'has a key' if len(clients) == 1 else 'have keys'}"
            yield ok("clients", f"{settings.listen} can be reached from other machines; {have}")
        else:
            remedy = refused.partition("\n")[2]
            yield problem("clients", _first_line(refused), remedy)


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip(".")
