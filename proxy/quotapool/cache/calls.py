"""One process's calls of `lua/cache.lua`: what is put in one turn of the loop goes out together, one call at a time.

A call has at most 64 items and a quarter of a megabyte of texts, so that it does not hold the store up for more than
some two milliseconds. Entries, which nobody waits for, go with the next look-up. A call that fails is not repeated:
nothing is worth a second try here, and a lease that was perhaps taken runs out by itself. For a second after a failure
nothing is sent, so a store that is away costs requests nothing.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from quotapool.cache.answers import Answer, unpack_answer
from quotapool.store.store import Script, Store, StoreLost, StoreRefused

_log = structlog.get_logger()
MOST_IN_CALL: Final = 64
LONGEST_TEXT: Final = 65_536  # bytes that pass a script; longer ones are stored and read by commands of their own
_MOST_BYTES: Final = 2**18
ASKED: Final = 0  # why an entry is dropped
EXPIRED: Final = 1
ROOM: Final = 2
_BEFORE_TEXTS: Final = 5  # in the script's ARGV
_FOR_OTHERS: Final = 16  # items of a call that nobody waits for, if others are waited for
_REST_S: Final = 1.0
_MAY_WAIT_S: Final = 0.02
_CLOCK_STEPS_S: Final = 0.5  # a larger difference is no delay: the store's clock was set, or it is another server's
_CLOCK_DRIFTS_S: Final = 1e-6  # for each answer

_pack: Final = msgspec.msgpack.Encoder().encode


class Item:
    """One thing to be done by the script. `key`: the entry's name as the store has it."""

    __slots__ = ("key",)
    reads = False  # a positive result is the length of a text that comes with the answer

    def __init__(self, key: str) -> None:
        self.key = key

    @property
    def weight(self) -> int:
        """Bytes of text that it takes with it, at most."""
        return 0

    @property
    def text(self) -> bytes:
        """What travels beside the words; asked for after them."""
        return b""

    def words(self) -> list[Any] | None:
        """As the script takes it, without the number of its text. None: it is not wanted any more."""
        raise NotImplementedError

    def keys(self) -> Sequence[str]:
        """Which keys it touches, without the pool's prefix and colon."""
        return f"e:{self.key}", f"l:{self.key}"

    def done(self, result: int, text: bytes, now: float, /) -> None:
        """`result`: the script's; `now`: second of the store's clock."""

    def failed(self) -> None:
        """The store did not answer."""


class Release(Item):
    """Gives a lease back."""

    __slots__ = ("token",)

    def __init__(self, key: str, token: str) -> None:
        super().__init__(key)
        self.token = token

    def words(self) -> list[Any] | None:
        return [3, self.key, self.token]


class Drop(Item):
    """Removes an entry. `why`, `value`: as in the script. `on_done(was_there)`."""

    __slots__ = ("on_done", "value", "why")

    def __init__(
        self, key: str, why: int, value: str | float = 0, on_done: Callable[[bool], None] = lambda _: None
    ) -> None:
        super().__init__(key)
        self.why = why
        self.value = value
        self.on_done = on_done

    def words(self) -> list[Any] | None:
        return [4, self.key, self.why, self.value]

    def keys(self) -> Sequence[str]:
        return (f"e:{self.key}",)

    def done(self, result: int, _text: bytes, _now: float, /) -> None:
        self.on_done(result == 1)


class Renew(Item):
    """Prolongs leases: tokens by name."""

    __slots__ = ("leases",)

    def __init__(self, leases: dict[str, str]) -> None:
        super().__init__("")
        self.leases = leases

    def words(self) -> list[Any] | None:
        return [5, [word for lease in self.leases.items() for word in lease]]

    def keys(self) -> Sequence[str]:
        return [f"l:{key}" for key in self.leases]


class Reset(Item):
    """Begins to count anew if there is no entry."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("")

    def words(self) -> list[Any] | None:
        return [6]

    def keys(self) -> Sequence[str]:
        return ()


class Calls:
    """The queue. `max_size`: of all entries in bytes. `on_failed(reason)`: a call failed, by the word of `StoreLost`,
    or "script"."""

    def __init__(self, store: Store, pool: str, *, max_size: int, on_failed: Callable[[str], None]) -> None:
        self.max_size = max_size
        self.prefix = prefix_of(pool)
        self.process = secrets.token_hex(6) + "."  # how tokens of this process' leases begin
        self._store = store
        self._on_failed = on_failed
        self._script = Script.of(__package__, "cache")
        self._urgent: deque[Item] = deque()
        self._others: deque[Item] = deque()
        self._dropping: set[str] = set()  # what the store named, until it is gone
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # until entries that nobody takes along are sent alone
        self._known_loop: asyncio.AbstractEventLoop | None = None
        self._rests_until = 0.0
        self._has_ended = False
        self._clock_ahead = 0.0  # the store's clock less our monotonic one
        self._epoch: int | None = None  # None: the store has not answered yet

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Kept: to ask for it costs a system call in Python 3.11."""
        if self._known_loop is None:
            self._known_loop = asyncio.get_running_loop()
        return self._known_loop

    @property
    def away(self) -> bool:
        """A call has failed within the last second, or there are to be no more."""
        return self._has_ended or time.monotonic() < self._rests_until

    @property
    def now(self) -> float | None:
        """Second of the store's clock; None: it has not answered yet."""
        return time.monotonic() + self._clock_ahead if self._epoch is not None else None

    def put(self, item: Item, *, urgent: bool = False, may_wait: bool = False) -> None:
        """Send it with the next call. `may_wait`: some milliseconds for one that takes it along. While the store is
        away it fails at once."""
        if self.away:
            item.failed()
            return
        (self._urgent if urgent else self._others).append(item)
        if self._task is not None:
            return
        if not may_wait:
            self._start()
        elif self._timer is None:
            self._timer = self.loop.call_later(_MAY_WAIT_S, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = self.loop.create_task(self._run())

    def again(self, item: Item) -> None:
        """Once more, before the others that wait."""
        self._others.appendleft(item)

    def note_failure(self, error: Exception) -> None:
        """A call failed, or a command beside them."""
        self._on_failed(error.reason if isinstance(error, StoreLost) else "script")

    def end(self) -> None:
        """From now on it is as if the store were away: nothing may open the connection again."""
        self._has_ended = True

    async def flush(self, seconds: float) -> None:
        """Wait until everything was sent, for at most `seconds`."""
        if self._timer is not None:
            self._start()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)

    async def _run(self) -> None:
        try:
            while self._urgent or self._others:
                items = self._next()
                try:
                    await self.send(items)
                except Exception as error:  # noqa: BLE001 - what waits would wait for ever, and keep its lease
                    self._fail(error, items)
        finally:
            self._task = None

    def _next(self) -> list[Item]:
        """Some of what nobody waits for goes first: what looks for an entry in the same call finds it."""
        urgent, others = self._urgent, self._others
        items: list[Item] = []
        weight = 0
        for most in (_FOR_OTHERS, MOST_IN_CALL):
            while others and len(items) < most and (not weight or weight + others[0].weight <= _MOST_BYTES):
                item = others.popleft()
                weight += item.weight
                items.append(item)
            items += [urgent.popleft() for _ in range(min(len(urgent), MOST_IN_CALL - len(items)))]
        return items

    async def send(self, items: Sequence[Item]) -> None:
        """One call for at most MOST_IN_CALL items. Raises StoreLost, StoreRefused."""
        words, texts, sent = _written(items)
        if not words:
            return
        now = self.now
        clock, epoch = (f"{now:.6f}", str(self._epoch)) if now is not None else ("", "")
        arguments: list[bytes | str] = [_pack(words), clock, epoch, self.process, str(self.max_size), *texts]
        raw = await self._store.evalsha_batch(
            self._script, self.prefix, *arguments, further_keys=lambda: keys_of(self.prefix, sent)
        )
        answer, start = _read(raw)
        if len(answer.results) != len(sent):
            raise StoreRefused("the script's answer is another call's")
        self._follow_clock(answer.now)
        self._epoch = answer.epoch
        for item, result in zip(sent, answer.results, strict=True):
            end = start + max(result, 0) if item.reads else start
            try:
                item.done(result, raw[start:end], answer.now)
            except Exception:  # noqa: BLE001 - one caller's bug must not leave all others waiting
                _log.exception("an answer of the cache could not be processed")
                item.failed()
            start = end
        self._drop(answer)

    def _fail(self, error: Exception, items: list[Item]) -> None:
        self._rests_until = time.monotonic() + _REST_S
        self.note_failure(error)
        if not isinstance(error, StoreLost):
            _log.warning("the store refuses the cache's script", error=str(error))
        failed = [*items, *self._urgent, *self._others]
        self._urgent.clear()
        self._others.clear()
        self._dropping.clear()
        for item in failed:
            item.failed()

    def _drop(self, answer: Answer) -> None:
        """What the store named goes before entries that wait for room."""
        for key in answer.expired:
            self._drop_one(key, EXPIRED)
        for key, used in zip(answer.oldest[::2], answer.oldest[1::2], strict=True):
            self._drop_one(key, ROOM, used)

    def _drop_one(self, key: str, why: int, value: str | float = 0) -> None:
        if key not in self._dropping:
            self._dropping.add(key)
            self._others.appendleft(Drop(key, why, value, lambda _: self._dropping.discard(key)))

    def _follow_clock(self, now: float) -> None:
        # An answer is late by its transfer, so the clock that is furthest ahead is the most exact; a drift is followed.
        ahead = now - time.monotonic()
        if self._epoch is None or abs(ahead - self._clock_ahead) > _CLOCK_STEPS_S:
            self._clock_ahead = ahead
        else:
            self._clock_ahead = max(ahead, self._clock_ahead - _CLOCK_DRIFTS_S)


def _written(items: Sequence[Item]) -> tuple[list[list[Any]], list[bytes], list[Item]]:
    """The words and texts of those that are still wanted, and these."""
    words, texts, wanted = [], list[bytes](), []
    for item in items:
        try:
            word = item.words()
        except Exception:  # noqa: BLE001 - what cannot be written must not fail all others
            _log.exception("something that is for the cache could not be written")
            item.failed()
            continue
        if word is None:
            continue
        if text := item.text:
            texts.append(text)
            word.append(_BEFORE_TEXTS + len(texts))
        words.append(word)
        wanted.append(item)
    return words, texts, wanted


def _read(raw: bytes) -> tuple[Answer, int]:
    """The answer, and where its texts begin. Raises StoreRefused: the script does not answer like that."""
    try:
        start = 8 + int(raw[:8])
        return unpack_answer(raw[8:start]), start
    except (ValueError, TypeError):
        raise StoreRefused("this is no answer of the cache's script") from None


def key_of(name: bytes) -> str:
    """An entry's name as the store has it: 22 characters, base64 without padding."""
    return binascii.b2a_base64(name, newline=False).rstrip(b"=").decode()


def prefix_of(pool: str) -> str:
    """What all keys of a pool's cache begin with. The hash tag is not the budgets': in a cluster it may be another
    node's work."""
    return f"qp:{{{pool}:cache}}"


def keys_of(prefix: str, items: Sequence[Item]) -> list[str]:
    """Every key but the prefix that `lua/cache.lua` may touch; the clock first, which it reads first."""
    names = ["clock", "epoch", "about", "used", "ends", "sums", "shares"]
    keys = dict.fromkeys(f"{prefix}:{name}" for name in names)  # ordered, each once
    for item in items:
        keys.update(dict.fromkeys(f"{prefix}:{name}" for name in item.keys()))  # noqa: SIM118 - no mapping
    return list(keys)
