"""A day of requests, noted by two workers on a real store in virtual time.

Prices are those of CARDS: of `model-a` a prompt token costs 2.5 microdollars, from the cache a tenth, a written one 10.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from quotapool.advice.note_store import NoteStore
from quotapool.advice.notes import Notes
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.money.billing import price_of
from quotapool.money.price_list import PriceList
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.requests import read_request
from quotapool.request.client_request import ClientRequest
from quotapool.settings import Settings

from tests.fakes.connect import connect

KEY = b"k" * 32
DAY_S = 86_400
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def _cards(rate: int, *, flex: bool = False) -> dict[str, RateCard]:
    cards = {"default": RateCard(input=10 * rate, cached_input=rate, output=40 * rate)}
    return {**cards, "flex": RateCard(input=5 * rate, cached_input=rate // 2, output=20 * rate)} if flex else cards


MODELS = {
    "model-a": _cards(250_000, flex=True),
    "model-a-2024-05-13": _cards(500_000),
    "model-b": _cards(10_000),
    "embedder": {"default": RateCard(input=20_000)},
}
CARDS = PriceList(CardSet(rules=tuple(Rule("equals", name, name) for name in MODELS), cards=MODELS))
_serial = itertools.count()


def request(target: str, body: dict[str, Any]) -> ClientRequest:
    """As the request path reads it."""
    endpoint = resolve("POST", target)
    assert isinstance(endpoint, Endpoint)
    assert endpoint.estimate is not None
    text = json.dumps(body).encode()
    facts = read_request(endpoint.estimate, text)
    return ClientRequest(
        endpoint,
        text,
        None,
        facts.model,
        facts.model,
        facts.cost,
        True,
        text=text,
        output=facts.output,
        choices=facts.choices,
        prompt_tokens=facts.prompt_tokens,
    )


def answered(client: str, model: str, prompt: int, completion: int, cached: int = 0, **more: Any) -> RequestRecord:
    """A request that upstream answered, with what it used."""
    usage = Usage(Certainty.EXACT, prompt, completion, cached)
    record = RequestRecord("qp_1", time.monotonic(), "POST", client=client, model=model, status=200, **more)
    record.attempts = [AttemptRecord("k", "a", 0.0, "ok", status=200, usage=usage)]
    record.pico = price_of(CARDS, model, "", usage)
    return record


def chat(words: str, model: str = "model-a", max_tokens: int | None = None, **more: Any) -> ClientRequest:
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return request(CHAT, {"model": model, "messages": [{"role": "user", "content": words}], **limit, **more})


def unique() -> str:
    """Words that nobody has said before."""
    return f"question {next(_serial)}"


def notes_on(url: str, **options: Any) -> Notes:
    """One worker's, on a connection of its own, which the test closes."""
    settings = Settings.model_validate({"advice": {"enabled": True}, **options})
    return Notes(NoteStore(connect(url), settings.pool), settings, KEY)


class Call:
    """One call of a day. `place`: which worker gets it."""

    def __init__(
        self, at: float, asked: ClientRequest, record: RequestRecord, priority: int = 0, place: int = 0
    ) -> None:
        self.at, self.asked, self.record, self.priority, self.place = at, asked, record, priority, place

    def __lt__(self, other: Call) -> bool:
        return self.at < other.at


async def live(workers: list[Notes], *programs: Iterable[Call]) -> None:
    """All calls of these programs in the order of their times (seconds of the day), at those times."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    began = time.monotonic()
    for call in heapq.merge(*programs):
        if (wait := began + call.at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        workers[call.place % len(workers)].note(
            call.asked, call.record, f"/v1/{call.asked.endpoint.path}", call.priority
        )
    await asyncio.sleep(max(0.0, began + DAY_S - time.monotonic()))
    for task in running:
        task.cancel()
    for worker in workers:
        await worker.close()


def every(seconds: float, offset: float = 0.0) -> Iterator[float]:
    """Moments of a day."""
    at = offset
    while at < DAY_S:
        yield at
        at += seconds
