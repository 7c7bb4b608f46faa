"""Keeps a worker's requests for the store: packed as each one ends, sent in chunks at most twice a second.

`keep` is on the request path, so it only packs into memory. While the store is away chunks wait, bounded: the oldest
are dropped and counted. A worker that is killed loses those of the last half second.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from quotapool.domain.quantities import Certainty
from quotapool.domain.request_record import ANONYMOUS, RequestRecord
from quotapool.observe.request_store import MOST_IN_CHUNK, RequestStore
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_EVERY_S: Final = 0.5
_LAST_S: Final = 2.0  # at the end, for a store that does not answer
_MOST_BYTES: Final = 4 * 2**20  # that wait while the store is away
_CHUNK_BYTES: Final = 128 * 1024  # about; for so long as the store copies one, it serves no reserve
_LONGEST: Final = 128  # characters of a name that comes from a client or from upstream
_PREFIX: Final = "sk-"  # how OpenAI's secrets begin; no request id has it
_CERTAINTY: Final = {certainty: certainty.value for certainty in Certainty}

_encode_into: Final = msgspec.msgpack.Encoder().encode_into


class RequestRing:
    """One worker's part. `most`: how many requests the store keeps; 0: none, and nothing is packed. `word` removes
    secrets from a name that a client chose; `dropped` hears how many were lost.

    `run` beside everything else, `close` at the end.
    """

    def __init__(
        self, store: RequestStore, most: int, *, word: Callable[[str], str], dropped: Callable[[int], None]
    ) -> None:
        self.most = most
        self._store = store
        self._word = word
        self._dropped = dropped
        self._open = bytearray()
        self._in_open = 0
        self._waiting: deque[tuple[int, bytes]] = deque()  # how many requests, and their chunk
        self._waiting_bytes = 0
        self._in_flight: tuple[int, int, bytes] | None = None  # number, how many requests, their chunk
        self._sender, self._sent = secrets.token_hex(8), 0
        self._away = False
        self._sending = asyncio.Lock()

    def keep(self, record: RequestRecord, total_s: float, overhead_s: float) -> None:
        """A request has ended."""
        if not self.most:
            return
        prompt = cached = completion = 0
        certainty = ""
        attempts = []
        for one in record.attempts:
            upstream_id = one.upstream_request_id
            if len(upstream_id) > _LONGEST or _PREFIX in upstream_id:
                upstream_id = ""
            attempts.append(
                (
                    one.key,
                    one.account,
                    one.outcome,
                    one.reason,
                    one.status,
                    int(one.waited_s * 1e6),
                    int(one.took_s * 1e6),
                    upstream_id,
                )
            )
            usage = one.usage
            if usage is not None:
                prompt, cached, completion = usage.prompt, usage.cached_prompt, usage.completion
                certainty = _CERTAINTY[usage.certainty]
        waited_for = record.waited_for
        if waited_for is not None:  # a group is a model of a client's choice
            waited_for = msgspec.structs.replace(waited_for, group=self._word(waited_for.group)[:_LONGEST])
        asked_for = record.asked_for
        if asked_for is not None and asked_for.group:
            asked_for = msgspec.structs.replace(asked_for, group=self._word(asked_for.group)[:_LONGEST])
        first_byte, saved = record.first_byte, record.saved
        kept: tuple[object, ...] = (
            record.id,
            time.time() - total_s,
            record.client or ("anonymous" if record.client == ANONYMOUS else ""),
            record.endpoint,
            self._word(record.model)[:_LONGEST],
            record.status,
            record.code,
            record.rules,
            record.streamed,
            record.cut,
            record.source,
            attempts,
            waited_for,
            int(record.queued_s * 1e6),
            None if first_byte is None else int((first_byte - record.started) * 1e6),
            int(total_s * 1e6),
            int(overhead_s * 1e6),
            prompt,
            cached,
            completion,
            certainty,
            record.pico,
            record.cache,
            record.kept,
            None if saved is None else (saved.requests, saved.prompt, saved.completion, saved.pico),
            asked_for,
        )
        if record.trace is not None:
            kept = (*kept, f"{record.trace.trace_id:032x}")
        _encode_into(kept, self._open, -1)
        self._in_open += 1
        if self._in_open >= MOST_IN_CHUNK or len(self._open) >= _CHUNK_BYTES:
            self._seal()

    def _seal(self) -> None:
        """Make a chunk of those that are packed."""
        chunk = b"\xdc" + self._in_open.to_bytes(2, "big") + self._open  # MessagePack: an array of so many
        self._waiting.append((self._in_open, chunk))
        self._waiting_bytes += len(chunk)
        self._open, self._in_open = bytearray(), 0
        while self._waiting_bytes > _MOST_BYTES:
            requests, oldest = self._waiting.popleft()
            self._waiting_bytes -= len(oldest)
            self._dropped(requests)

    async def run(self) -> None:
        """Store twice a second, forever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - whatever it is, the next half second's requests must be stored
                _log.exception("requests cannot be kept")

    async def flush(self) -> bool:
        """Send what waits; False if the store did not take it, which is tried again next time."""
        async with self._sending:
            return await self._send_all()

    async def _send_all(self) -> bool:
        while self._in_flight is not None or self._waiting or self._in_open:
            if self._in_flight is None:
                if not self._waiting:
                    self._seal()
                requests, chunk = self._waiting.popleft()
                self._waiting_bytes -= len(chunk)
                self._sent += 1
                self._in_flight = self._sent, requests, chunk
            number, requests, chunk = self._in_flight
            try:
                await self._store.add(chunk, requests, sender=self._sender, number=number, most=max(1, self.most))
            except StoreError as lost:
                if not self._away:
                    self._away = True
                    _log.warning("requests cannot be kept and wait in memory", problem=str(lost))
                return False
            self._in_flight = None
        self._away = False
        return True

    async def close(self) -> None:
        """Store all that is left. What the store does not take within 2 seconds is lost, and counted."""
        deadline = time.monotonic() + _LAST_S
        while not await self.flush():
            if time.monotonic() > deadline:
                flying = 0 if self._in_flight is None else self._in_flight[1]
                self._dropped(flying + self._in_open + sum(requests for requests, _ in self._waiting))
                return
            await asyncio.sleep(0.1)
