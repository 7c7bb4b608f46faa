"""The registry: what all replicas share besides budgets. States of keys and accounts, model groups and organisations as
learned from answers, and the stream of events.

A version number counts the changes and comes with every answer, so that each process knows when to read again; the
epoch distinguishes a store that kept its data from one that was emptied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, Final

import msgspec

from quotapool.domain.observer import Observer
from quotapool.domain.states import OBSERVED, OPERATOR, WALLET, Record, State, brake_of
from quotapool.domain.subject import Subject
from quotapool.ledger.declared_keys import keys_of_clock, keys_of_state, keys_of_states, keys_of_try_now
from quotapool.ledger.messages import record_of
from quotapool.store.store import Script, Store, StoreLost, StoreUnavailable, text_of

MOST_EVENTS: Final = 10_000

_AT_ONCE: Final = 200  # names of buckets in one turn of the loop
_RECORDS_AT_ONCE: Final = 1_000  # decoded in one turn of the loop, 4 ms
_CHANGES_AT_ONCE: Final = 250  # of states, in one call of the script: 3 ms of the store's time

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Braked(IntEnum):
    """What the brake did with a removal."""

    NO = 0  # let it pass, or does not apply
    STOPPED = 1  # the key became suspect instead, or kept its state
    FIRST = 2  # the same, and this one raises the alarm


class Registry:
    """One process's client of the registry. Every call is repeated until the store answers or patience ends; while
    `is_away`, the ledger's knowledge that the store is away, a call fails at once. All raise StoreUnavailable then."""

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        patience_s: float,
        observer: Observer,
        is_away: Callable[[], bool],
        on_version: Callable[[], None],
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.epoch = ""  # a store with another one has lost its data
        self.version = -1  # counts changes
        self._known_states: dict[bytes, tuple[bytes, Subject, Record]] = {}  # by their names, as the store has them
        self._patience_s = patience_s
        self._observer = observer
        self._is_away = is_away
        self._on_version = on_version
        self._state_script = Script.of(__package__, "state")
        self._states_script = Script.of(__package__, "states")
        self._try_now_script = Script.of(__package__, "try_now")
        self._clock_script = Script.of(__package__, "clock")

    def update_version(self, version: int, epoch: str) -> None:
        """Take the version and epoch of an answer."""
        changed = version != self.version or epoch != self.epoch
        self.version, self.epoch = version, epoch
        if changed:
            self._on_version()

    async def change_state(
        self, subject: Subject, record: Record | None, *, rest_s: float = 0.0, by: str = OBSERVED, fingerprint: str
    ) -> bool:
        """Request a state change by the rules of `domain/states.py`; True if it took place.

        `record.since` and `.until` are set by the store's clock.
        """
        changed, _ = await self._change_state(subject, record, rest_s, by, fingerprint, None)
        return changed

    async def observe_state(
        self, subject: Subject, record: Record, *, rest_s: float, fingerprint: str, max_removals: int
    ) -> tuple[bool, Braked]:
        """`change_state` for what upstream's answers show: a removal that looks like one of a burst with one cause
        makes the key suspect instead, for `rest_s`."""
        brake = brake_of(record, max_removals)
        return await self._change_state(subject, record, rest_s, OBSERVED, fingerprint, brake)

    async def _change_state(
        self,
        subject: Subject,
        record: Record | None,
        rest_s: float,
        by: str,
        fingerprint: str,
        brake: tuple[str, int] | None,
    ) -> tuple[bool, Braked]:
        body = _body(record)
        brake = brake or ("", 0)
        args = (str(subject), body, rest_s, record.by if record else by, fingerprint, *brake)
        keys = keys_of_state(self.prefix, brake[0])
        changed, version, _, braked = await self.retry(lambda: self.store.evalsha(self._state_script, keys, args))
        self.update_version(int(version), self.epoch)
        return bool(changed), Braked(braked)

    async def set_states(self, changes: Sequence[tuple[Subject, Record | None, str]], actor: str = "") -> int:
        """What an operator says of many: (subject, its record or None: active, its fingerprint). How many of them
        changed something. Each has its event, with `actor`, the operator's name ("": not known); the version is raised
        once for some hundred of them, or every process would read all states again for each."""
        changed = 0
        for start in range(0, len(changes), _CHANGES_AT_ONCE):
            args: list[str | bytes] = [actor]
            args += [
                word
                for subject, record, fingerprint in changes[start : start + _CHANGES_AT_ONCE]
                for word in (str(subject), _body(record), fingerprint)
            ]
            run = partial(self.store.evalsha, self._states_script, keys_of_states(self.prefix), args)
            some, version = await self.retry(run)
            changed += int(some)
            self.update_version(int(version), self.epoch)
        return changed

    async def records(self) -> dict[Subject, Record]:
        """Everything that is not active. What has not changed since the last call are the same objects."""
        raw = await self.retry(lambda: self.store.client.hgetall(f"{self.prefix}:states"))
        known, now = self._known_states, dict[bytes, tuple[bytes, Subject, Record]]()
        found: dict[Subject, Record] = {}
        for number, (name, value) in enumerate(raw.items(), start=1):
            state = known.get(name)
            if state is None or state[0] != value:
                state = value, Subject(text_of(name)), record_of(value)
            now[name] = state
            found[state[1]] = state[2]
            if number % _RECORDS_AT_ONCE == 0:  # an operator may have disabled thousands
                await asyncio.sleep(0)
        self._known_states = now
        return found

    async def removals_stopped(self) -> int:
        """How many removals the brake has stopped, ever."""
        return int(await self.retry(lambda: self.store.client.get(f"{self.prefix}:stopped")) or 0)

    async def announce(self, kind: str, subject: str, fields: Mapping[str, str], *, every_s: int) -> bool:
        """Put an event that is no change of state into the stream, at most once in `every_s` seconds for this `kind`
        and `subject`, all replicas together; whether it was put."""
        lock = f"{self.prefix}:told:{kind}:{subject}"
        if not await self.retry(lambda: self.store.client.set(lock, b"1", nx=True, ex=every_s)):
            return False
        await self._add_event(kind, subject, fields)
        return True

    async def still(self, kind: str, subject: str, *, every_s: int) -> None:
        """What was announced lasts: for so long it is not announced again, and its end can be."""
        lock = f"{self.prefix}:told:{kind}:{subject}"
        await self.retry(lambda: self.store.client.set(lock, b"1", ex=every_s))

    async def announce_end(self, kind: str, subject: str, fields: Mapping[str, str]) -> bool:
        """Put an event into the stream that what was announced is over, once; it may then be announced again at once.
        Whether this call put it."""
        lock = f"{self.prefix}:told:{kind}:{subject}"
        if not await self.retry(lambda: self.store.client.delete(lock)):
            return False
        await self._add_event(kind, subject, fields)
        return True

    async def _add_event(self, kind: str, subject: str, fields: Mapping[str, str]) -> None:
        names = ("from", "to", "reason", "message", "request_id")
        event: dict[Any, Any] = {"field": subject, **dict.fromkeys(names, ""), "by": OBSERVED, "status": "0", **fields}
        event |= {"at": str(await self.time()), "kind": kind}
        await self.retry(
            lambda: self.store.client.xadd(f"{self.prefix}:events", event, maxlen=MOST_EVENTS, approximate=True)
        )

    async def try_now(self, state: State, subjects: Sequence[Subject]) -> int:
        """Let the resting keys and accounts that are in `state` be tried at once, with the next request or probe. How
        many there were.

        States set by an operator or for a wallet are left alone: an operator lifts the one, the credit control the
        other, within seconds.
        """
        args = [state, OPERATOR, WALLET, *map(str, subjects)]
        keys = keys_of_try_now(self.prefix)
        return int(await self.retry(lambda: self.store.evalsha(self._try_now_script, keys, args)))

    async def record_group(self, model: str, group: str) -> None:
        """Remember for all replicas that `model` shares the limit of `group`."""
        await self.retry(lambda: self.store.client.hset(f"{self.prefix}:groups", model, group))
        await self._raise_version()

    async def learned_groups(self) -> dict[str, str]:
        """Model -> group, as learned from upstream's messages."""
        raw = await self.retry(lambda: self.store.client.hgetall(f"{self.prefix}:groups"))
        return {text_of(model): text_of(group) for model, group in raw.items()}

    async def record_organization(self, accounts: Sequence[str], organization: str) -> None:
        """Remember for all replicas that these accounts belong to one organisation."""
        fields: dict[Any, Any] = dict.fromkeys(accounts, organization)
        if await self.retry(lambda: self.store.client.hset(f"{self.prefix}:organizations", mapping=fields)):
            await self._raise_version()

    async def _raise_version(self) -> None:
        self.update_version(int(await self.retry(lambda: self.store.client.incr(f"{self.prefix}:version"))), self.epoch)

    async def known_organizations(self) -> dict[str, str]:
        """Account -> organisation, of those that share one."""
        raw = await self.retry(lambda: self.store.client.hgetall(f"{self.prefix}:organizations"))
        return {text_of(account): text_of(organization) for account, organization in raw.items()}

    async def begin_epoch(self, *, reseeded: bool) -> str:
        """Give the store an epoch, unless it has one. A reseeded one starts new buckets low for two minutes. Returns
        the epoch in force."""
        await self.correct_seconds()  # the clock may have been set back while nobody was here
        seconds, _ = await self.retry(self.store.client.time)
        key, value = f"{self.prefix}:epoch", f"{'r' if reseeded else 'f'}:{seconds}"
        await self.retry(lambda: self.store.client.set(key, value, nx=True))
        self.epoch = text_of(await self.retry(lambda: self.store.client.get(key)))
        return self.epoch

    async def correct_seconds(self) -> None:
        """The store's clock was set back: let what rests do so no longer than it was to. Changes nothing otherwise.

        A group that gets its first bucket meanwhile has nothing yet that an earlier clock has set.
        """
        groups: dict[str, None] = {}
        async for part in self.bucket_names():
            groups.update((_unpack(member)[1], None) for member in part)
        keys = keys_of_clock(self.prefix, list(groups))
        await self.retry(lambda: self.store.evalsha(self._clock_script, keys, []))

    async def bucket_names(self) -> AsyncIterator[list[bytes]]:
        """The index of all buckets, each once, a few hundred at a time: MessagePack of (account, model group)."""
        seen: set[bytes] = set()  # a scan may name a member twice
        cursor = -1
        while cursor:
            scan = partial(self.store.client.sscan, f"{self.prefix}:buckets", max(0, cursor), count=_AT_ONCE)
            cursor, members = await self.retry(scan)
            new = [member for member in members if member not in seen]
            seen.update(new)
            for start in range(0, len(new), _AT_ONCE):
                yield new[start : start + _AT_ONCE]

    async def look(self) -> None:
        """Read version and epoch. Unlike a heartbeat it counts nobody as a replica."""
        keys = (f"{self.prefix}:version", f"{self.prefix}:epoch")
        version, epoch = await self.retry(lambda: self.store.client.mget(*keys))
        self.update_version(int(version or 0), text_of(epoch or b""))

    async def poll(self) -> float:
        """The same; returns the store's time."""
        await self.look()
        return await self.time()

    async def time(self) -> float:
        """The store's time, Unix seconds."""
        seconds, micros = await self.retry(self.store.client.time)
        now: float = seconds + micros / 1e6
        return now

    async def retry(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat an idempotent call until the store answers. Raises StoreUnavailable when patience ends, or at once
        while the store is known to be away."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await self.store.guard(call())
            except StoreLost as lost:
                self._observer.store_failed(lost.reason)
                if self._is_away() or time.monotonic() > deadline:
                    raise StoreUnavailable(str(lost)) from lost
                await asyncio.sleep(0.05)


def _body(record: Record | None) -> bytes:
    """As the scripts read it; b"": active again."""
    if record is None:
        return b""
    return _pack(
        {
            "state": record.state.value,
            "reason": record.reason,
            "tries": record.tries,
            "status": record.status,
            "message": record.message,
            "request_id": record.request_id,
            "by": record.by,
            "fingerprint": record.fingerprint,
        }
    )
