"""An embeddings request that is served by its inputs: those that are kept, and upstream's vectors for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import msgspec

from quotapool.cache.items import EmbeddingItems, ItemStore, Served
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.money.billing import price_of
from quotapool.money.price_list import PriceList
from quotapool.openai import replies
from quotapool.openai.head import Head, Header
from quotapool.openai.refusal import Refusal
from quotapool.openai.requests import read_request
from quotapool.request.client_request import ClientRequest
from quotapool.request.recorder import Recorder
from quotapool.request.relay import Downstream
from quotapool.settings.cache import Cache
from quotapool.upstream.interface import UpstreamFailure

ITEMS: Final = b"x-quotapool-cache-items"
_LARGE: Final = 2**20  # bytes of an answer that goes out in its parts
_MOST: Final = 2**28  # bytes of an answer that is put together; OpenAI's most vectors of the longest are half of it

Ask = Callable[[Downstream, ClientRequest], Awaitable[None]]


class ByItem:
    """Serves one request. `pay` charges its client for what is saved, and raises Refusal if it cannot pay."""

    def __init__(
        self,
        request: ClientRequest,
        to: Recorder,
        record: RequestRecord,
        *,
        cache: Cache,
        prices: PriceList | None,
        pay: Callable[[Saved], Awaitable[None]],
    ) -> None:
        self._request = request
        self._to = to
        self._record = record
        self._cache = cache
        self._prices = prices
        self._pay = pay
        self._answer: _Collector | None = None  # the last one

    async def serve(
        self, store: ItemStore, names: Callable[[bytes], bytes], max_age_s: float | None, ask: Ask | None
    ) -> str:
        """Answer it; a word why its vectors are not kept. `ask` None: with what is kept, or not at all. Raises Refusal
        (504, those of `pay`) and what `ask` raises."""
        record, text = self._record, self._request.text

        async def upstream(body: bytes) -> bytes | None:
            return await self._upstream(ask, body) if ask is not None else None

        served = await EmbeddingItems(store).serve(
            text,
            names=names,
            max_age_s=max_age_s,
            ask=None if ask is None else upstream,
            ttl_s=self._cache.ttl,
            max_entry=self._cache.max_entry,
            client=record.client,
            price=self._price,
        )
        if isinstance(served, str):
            if ask is None:
                raise Refusal(replies.NOT_CACHED)
            await ask(self._to, self._request)
            return served
        if served is None:
            return "error"
        if not served.as_it_came:
            await self._reply(served)
        return ""

    async def _upstream(self, ask: Ask, body: bytes) -> bytes | None:
        """A good answer to this body; None: the client has another one."""
        request = self._request
        is_whole = body is request.text
        if not is_whole:
            facts = read_request("embeddings", body)
            request = msgspec.structs.replace(
                request, body=body, text=body, cost=facts.cost, prompt_tokens=facts.prompt_tokens
            )
        answer = self._answer = _Collector(self._to, passes=is_whole)
        await ask(answer, request)
        return answer.body

    async def _reply(self, served: Served) -> None:
        record, to, answer = self._record, self._to, self._answer
        if served.hits:
            await self._pay(served.saved)
            record.saved = served.saved
        headers: list[Header] = [(ITEMS, b"hit=%d, miss=%d" % (served.hits, served.items - served.hits))]
        if answer is not None:
            headers += [pair for pair in answer.answered if pair[0].lower() != b"content-length"]
        else:
            record.status, record.source, record.cache, to.result = 200, "cache", "hit", "hit"
            headers += [
                (b"content-type", b"application/json"),
                (b"x-quotapool-source", b"cache"),
                (b"age", b"%d" % max(0, int(served.age_s))),
            ]
        if served.size <= _LARGE:
            if (full := to.reply(200, "", headers, served.size, b"".join(served.parts))) is not None:
                await full
            return
        await to.start(200, "", headers, served.size)
        for part in served.parts:
            await to.write(part)
        await to.finish()

    def _price(self, tokens: int) -> int | None:
        if self._prices is None:
            return None
        return price_of(self._prices, self._request.model, "", Usage(Certainty.EXACT, prompt=tokens))


class _Collector:
    """The client's side of a call of ours: keeps a good answer, and passes others on. `passes`: a good one, too.

    `body`: of a good answer, if it came whole. One that is only kept has not started: what breaks off is asked again.
    """

    def __init__(self, to: Downstream, *, passes: bool) -> None:
        self._to = to
        self._passes = passes
        self._is_good = False
        self._parts: list[bytes] = []
        self._size = 0
        self.body: bytes | None = None
        self.answered: Sequence[Header] = ()
        self.started = False
        self.method: str = to.method
        self.target: str = to.target
        self.headers: Head = to.headers
        self.read = to.read
        self.stream: Callable[[], AsyncIterator[bytes]] = to.stream

    @property
    def address(self) -> str:
        return self._to.address

    def _begin(self, status: int, headers: Sequence[Header]) -> bool:
        """Whether the answer is passed on."""
        self._is_good, self.answered = status == 200, headers
        self._parts, self._size = [], 0
        self.started = self._passes or not self._is_good
        return self.started

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None] | None:
        passes = self._begin(status, headers)
        self.body = body if self._is_good else None
        return self._to.reply(status, reason, headers, length, body) if passes else None

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        if self._begin(status, headers):
            await self._to.start(status, reason, headers, length)

    async def write(self, data: bytes) -> None:
        if (full := self.put(data)) is not None:
            await full

    def put(self, data: bytes) -> Awaitable[None] | None:
        self._size += len(data)
        if self._size > _MOST and not self.started:
            raise UpstreamFailure("protocol", "the answer is too long to be put together", sent=True)
        if self._is_good and self._size <= _MOST:
            self._parts.append(data)
        return self._to.put(data) if self.started else None

    async def finish(self) -> None:
        if self._is_good and self._size <= _MOST:
            self.body = b"".join(self._parts)
        if self.started:
            await self._to.finish()

    def cut(self) -> None:
        self._to.cut()
