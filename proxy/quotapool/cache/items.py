"""Embeddings by item: each input of a request is an entry of its own, and only what is not there goes upstream.

    split -> look all inputs up -> ask for the rest in one call -> keep its vectors -> put the answer together

An answer has vectors of one model and one length, the form that was asked for, and the usage that upstream reports for
what it was asked: none, if it was not asked. Where that cannot be (upstream answers in a way that is not OpenAI's, or
has another version of the model than the entries), the request goes upstream as it came, and so does its answer back.

A request of 2,048 inputs has megabytes of numbers: work on them is done in portions, and others run in between.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from quotapool.cache.entry import Cost, Entry, Form
from quotapool.cache.look_ups import LOOK_UP_S
from quotapool.domain.request_record import Saved
from quotapool.openai.embedding_items import (
    MOST_TOKENS,
    AnswerReader,
    Item,
    Split,
    around,
    element,
    reduced,
    shares,
    split,
)
from quotapool.openai.vectors import Vector, read_vector

CONTENT_TYPE: Final = "application/x-quotapool-vector"
"""Of an entry that is one vector: no client gets it as it is."""

NOT_CACHED: Final = "not_cached"

_MOST_NUMBERS: Final = 2048 * 3072  # of one answer that is kept: OpenAI's most inputs of its longest vectors
_PORTION: Final = 2**14  # numbers of vectors: about 1.5 ms
_EACH: Final = 64  # what an input takes besides, in such numbers
_CONVERTED: Final = 4  # what a number takes if its 32-bit float has to be found
_LOOKED_UP_AT_ONCE: Final = 128
_PUT_AT_ONCE: Final = 64
_PART: Final = 2**18  # bytes

Ask = Callable[[bytes], Awaitable[bytes | None]]


class Kept(Protocol):
    """An entry that was found."""

    @property
    def entry(self) -> Entry: ...
    @property
    def age_s(self) -> float: ...


class ItemStore(Protocol):
    """Where entries are kept. Neither method raises: what fails is not found, or not kept."""

    async def look_up_items(self, names: Sequence[bytes], *, max_age_s: float | None) -> Sequence[Kept | None]: ...
    def put_items(self, entries: Sequence[tuple[bytes, Entry]], *, ttl_s: float, client: str) -> None: ...


class Served(msgspec.Struct, frozen=True, gc=False):
    """An answer. `parts`: of its body, since joining 80 MB takes 0.1 s at once. `as_it_came`: it is upstream's to the
    client's own request, byte for byte. `hits`: of all `items`, those that were not sent upstream, since they were kept
    or came twice. `age_s`: of the oldest entry among them. `saved`: a request if upstream was not asked, and the tokens
    of the hits."""

    parts: Sequence[bytes]
    as_it_came: bool
    items: int
    hits: int = 0
    age_s: float = 0.0
    saved: Saved = Saved()

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.parts))


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The body of an entry. `model`: that answered, which may be a version of the one that the request names."""

    model: str
    vector: Vector


class _Found:
    """What is known of a request's distinct inputs. `written`: JSON of their vectors; None: there is none, or its form
    is not the one asked for (then it is in `other`)."""

    def __init__(self, count: int) -> None:
        self.written: list[bytes | None] = [None] * count
        self.costs = [Cost()] * count
        self.other: dict[int, Vector] = {}
        self.model = ""
        self.length = 0  # of each vector; 0: none was found
        self.age_s = 0.0


class _Fresh(msgspec.Struct, frozen=True, gc=False):
    """An answer of upstream. `embeddings`: the JSON of its vectors, in the order of the inputs, if it is wanted."""

    model: str
    tokens: int
    head: bytes
    tail: bytes
    vectors: list[Vector]
    embeddings: list[bytes]


class _Terms(msgspec.Struct, frozen=True, gc=False):
    """How vectors of this request are kept. `names`: of its distinct inputs."""

    names: list[bytes]
    model: str
    ttl_s: float
    max_entry: int
    client: str
    price: Callable[[int], int | None]


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Body).decode


class EmbeddingItems:
    """Serves embeddings requests from the entries of their inputs."""

    def __init__(self, store: ItemStore) -> None:
        self._store = store

    async def serve(
        self,
        request_text: bytes,
        *,
        names: Callable[[bytes], bytes],
        max_age_s: float | None,
        ask: Ask | None,
        ttl_s: float,
        max_entry: int,
        client: str,
        price: Callable[[int], int | None],
    ) -> Served | str | None:
        """The answer to a request with this JSON body; or a word why it is not served by items, before anyone is asked:
        those of `split`, `too_many_tokens`, and NOT_CACHED if there is no `ask`.

        `names`: from an input's canonical text to the name of its entry. `max_age_s`: older entries are not served.
        `ask`: sends a body upstream and returns that of a good answer. None: there was no good one, and the client has
        its error; `serve` returns None, too. A good answer to `request_text` itself is always the client's, so it may
        be passed on as it comes; one to any other body must not be.
        `ttl_s`, `max_entry` (bytes), `client`: of what is kept. `price`: of so many tokens, in picodollars.
        """
        request = split(request_text)
        if isinstance(request, str):
            return request
        pace = _Pace()
        read = await _inputs(request, pace)
        if isinstance(read, str):
            return read
        items, places = read
        terms = _Terms(await _named(items, names, pace), request.model, ttl_s, max_entry, client, price)
        found = await self._look_up(terms.names, max_age_s, pace, base64=request.base64)
        missing = [n for n, written in enumerate(found.written) if written is None]
        if not missing:
            return await _joined(places, found, missing, around(found.model))
        if ask is None:
            return NOT_CACHED

        if len(missing) < len(places):
            asked = [items[n] for n in missing]
            answer = await ask(reduced(request, asked))
            if answer is None:
                return None
            fresh = await _read(answer, len(asked), pace, wanted=True)
            if fresh is not None and found.model in {"", fresh.model} and found.length in {0, fresh.vectors[0].length}:
                await self._keep(terms, missing, asked, found, fresh, pace)
                return await _joined(places, found, missing, (fresh.head, fresh.tail))

        answer = await ask(request_text)
        if answer is None:
            return None
        fresh = await _read(answer, len(places), pace)
        if fresh is not None:
            await self._keep(terms, places, [items[n] for n in places], found, fresh, pace)
        return Served((answer,), as_it_came=True, items=len(places))

    async def _look_up(self, names: list[bytes], max_age_s: float | None, pace: _Pace, *, base64: bool) -> _Found:
        """Vectors of one model and length: those of the youngest entry. What else was found is as good as missing.

        The store has LOOK_UP_S for each portion. Once it was slower, what was not looked up is missing, too.
        """
        bodies: dict[int, tuple[_Body, Kept]] = {}
        clock = asyncio.get_running_loop().time
        for start in range(0, len(names), _LOOKED_UP_AT_ONCE):
            began = clock()
            kept = await self._store.look_up_items(names[start : start + _LOOKED_UP_AT_ONCE], max_age_s=max_age_s)
            for n, one in enumerate(kept, start):
                body = None if one is None else _body_of(one.entry)
                if one is not None and body is not None:
                    bodies[n] = (body, one)
                await pace.did(_EACH)
            if clock() - began >= LOOK_UP_S:
                break
        found = _Found(len(names))
        if not bodies:
            return found
        youngest, _ = min(bodies.values(), key=lambda pair: pair[1].age_s)
        found.model, found.length = youngest.model, youngest.vector.length
        for n, (body, one) in bodies.items():
            vector = body.vector
            if (body.model, vector.length) != (found.model, found.length):
                continue
            found.written[n] = written = vector.written(base64=base64)
            if written is None:
                found.other[n] = vector
            else:
                found.costs[n] = one.entry.cost
                found.age_s = max(found.age_s, one.age_s)
            await pace.did(vector.length * (_CONVERTED if base64 and not vector.singles else 1))
        return found

    async def _keep(
        self, terms: _Terms, numbers: Sequence[int], asked: Sequence[Item], found: _Found, fresh: _Fresh, pace: _Pace
    ) -> None:
        """Put the vectors of a call's inputs, of which `numbers` says the places in `terms.names`, and add what they
        cost and how they are written to `found`."""
        entries: list[tuple[bytes, Entry]] = []
        for at, (n, tokens) in enumerate(zip(numbers, shares(asked, fresh.tokens), strict=True)):
            vector = fresh.vectors[at]
            if n in found.other and found.model == fresh.model:
                vector = vector.beside(found.other[n])
            cost = found.costs[n] = Cost(tokens, 0, terms.price(tokens))
            if fresh.embeddings:
                found.written[n] = fresh.embeddings[at]
            body = _pack(_Body(fresh.model, vector))
            if len(body) <= terms.max_entry:
                entries.append((terms.names[n], Entry(Form.JSON, body, CONTENT_TYPE, terms.model, cost)))
            if len(entries) == _PUT_AT_ONCE:
                self._store.put_items(entries, ttl_s=terms.ttl_s, client=terms.client)
                entries = []
            await pace.did(_EACH)
        if entries:
            self._store.put_items(entries, ttl_s=terms.ttl_s, client=terms.client)


class _Pace:
    """Lets others run after each portion of work."""

    def __init__(self) -> None:
        self._done = 0

    async def did(self, work: int) -> None:
        """`work`: as many numbers of a vector, or what takes as long."""
        self._done += work
        if self._done >= _PORTION:
            self._done = 0
            await asyncio.sleep(0)


def _body_of(entry: Entry) -> _Body | None:
    """None: it is not a vector."""
    if entry.content_type != CONTENT_TYPE:
        return None
    try:
        return _unpack(entry.body)
    except msgspec.MsgspecError:
        return None


async def _inputs(request: Split, pace: _Pace) -> tuple[list[Item], list[int]] | str:
    """The distinct inputs, and for each place in the request the number of its input among them; or a word why not."""
    items: list[Item] = []
    numbers: dict[bytes, int] = {}
    places: list[int] = []
    tokens = 0
    for at in range(len(request.raws)):
        item = request.item(at)
        if item is None:
            return "input_form"
        tokens += item.tokens
        if tokens > MOST_TOKENS:
            return "too_many_tokens"
        number = numbers.setdefault(item.canonical, len(items))
        if number == len(items):
            items.append(item)
        places.append(number)
        await pace.did(_EACH + len(item.raw) // 64)
    return items, places


async def _named(items: Sequence[Item], names: Callable[[bytes], bytes], pace: _Pace) -> list[bytes]:
    found = []
    for item in items:
        found.append(names(item.canonical))
        await pace.did(_EACH + len(item.canonical) // 64)
    return found


async def _read(answer: bytes, count: int, pace: _Pace, *, wanted: bool = False) -> _Fresh | None:
    """An answer with this many vectors, all of one length. `wanted`: their JSON, too. None: it is no such answer."""
    reader = AnswerReader(answer)
    vectors: dict[int, Vector] = {}
    embeddings: dict[int, bytes] = {}
    length = 0
    for one in reader:
        text = bytes(one.embedding)
        vector = read_vector(text)
        if vector is None or not 0 <= one.index < count or one.index in vectors:
            return None
        length = length or vector.length
        if vector.length != length or length * count > _MOST_NUMBERS:
            return None
        vectors[one.index] = vector
        if wanted:
            embeddings[one.index] = text
        await pace.did(length)
    if not reader.ended_well or len(vectors) != count:
        return None
    return _Fresh(
        reader.model,
        reader.tokens,
        reader.head,
        reader.tail,
        [vectors[at] for at in range(count)],
        [embeddings[at] for at in range(count)] if wanted else [],
    )


async def _joined(places: Sequence[int], found: _Found, missing: Sequence[int], rest: tuple[bytes, bytes]) -> Served:
    """The answer with a vector at each place. `missing`: what upstream was asked for, once each. `rest`: what is before
    and behind the elements."""
    parts: list[bytes] = []
    elements: list[bytes] = []
    size, before = 0, rest[0]
    for index, n in enumerate(places):
        written = found.written[n]
        assert written is not None  # noqa: S101 -- what was missing has come
        elements.append(element(index, written))
        size += len(written)
        if size >= _PART:
            parts.append(before + b",".join(elements))
            elements, size, before = [], 0, b","
            await asyncio.sleep(0)
    parts.append(before + b",".join(elements) + rest[1] if elements else rest[1])
    given = Counter(places)
    given.subtract(missing)
    costs = [(found.costs[n], times) for n, times in given.items() if times]
    picos = [cost.pico * times for cost, times in costs if cost.pico is not None]
    saved = Saved(
        requests=0 if missing else 1,
        prompt=sum([cost.prompt * times for cost, times in costs]),
        pico=sum(picos) if len(picos) == len(costs) else None,
    )
    hits = len(places) - len(missing)
    return Served(parts, as_it_came=False, items=len(places), hits=hits, age_s=found.age_s, saved=saved)
