"""`GET /quotapool/me`: what a client may do, what is used and left of its limits and budgets, and what was refused.

It is read from the store, at most once a second for each client, so that who asks often costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from quotapool.domain.request_record import ANONYMOUS, RequestRecord
from quotapool.ledger.refusals import RefusalNotes, RefusedRequests
from quotapool.ledger.rules import Standing
from quotapool.ledger.stored_rules import StoredRules
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.request.relay import Downstream
from quotapool.request.rule_rows import RuleRow, row_of
from quotapool.settings import ClientOptions
from quotapool.store.store import Store, StoreError

PREFIX: Final = "/quotapool/"
_PATH: Final = "/quotapool/me"
_FRESH_S: Final = 1.0
_MOST_KEPT: Final = 1_000  # answers, before old ones are dropped
_NO_CLIENTS: Final = "Client keys are not in use here, so there is no client whose limits could be shown."
_OTHER_PATH: Final = "The only path here is /quotapool/me. Paths of the OpenAI API begin with /v1/."
_OF_RULES: Final = frozenset(
    {
        replies.CLIENT_RATE_LIMITED.code,
        replies.CLIENT_CONCURRENCY.code,
        replies.CLIENT_BUDGET_EXHAUSTED.code,
        replies.CLIENT_MODEL_UNPRICED.code,
    }
)


class Standings(msgspec.Struct):
    """The answer. `models`: names and patterns; empty: all. `expires_on`: the first day (UTC) of no access. `refusals`:
    by its own rules, the newest first."""

    id: str
    name: str
    team: str | None
    models: list[str]
    expires_on: str | None
    rules: list[RuleRow]
    refusals: list[RefusedRequests]


class Me:
    """`standings`: all rules of a client, its team's included."""

    def __init__(
        self,
        configuration: Configuration,
        store: Store,
        pool: str,
        standings: Callable[[str], tuple[Standing, ...]],
    ) -> None:
        self._configuration = configuration
        self._standings = standings
        self._stored = StoredRules(store, pool)
        self._notes = RefusalNotes(store, pool)
        self._answers: dict[str, tuple[float, asyncio.Future[bytes]]] = {}

    def __repr__(self) -> str:
        return f"<Me of {len(self._answers)} clients>"

    def note(self, record: RequestRecord, refusal: Refusal) -> None:
        """Remember for the client that its own rules refused a request; other refusals are not its own."""
        if record.client and refusal.error.code in _OF_RULES:
            self._notes.note(record.client, refusal.error.code, record.rules, str(refusal))

    async def serve(self, down: Downstream, record: RequestRecord) -> None:
        """Answer the client that `record` names. Raises Refusal (404, 405, 503)."""
        if down.target.partition("?")[0] != _PATH:
            raise Refusal(replies.PATH_NOT_FOUND, _OTHER_PATH)
        if down.method != "GET":
            raise Refusal(replies.METHOD_NOT_ALLOWED, "This path has GET only.")
        if record.client == ANONYMOUS:
            raise Refusal(replies.PATH_NOT_FOUND, _NO_CLIENTS)
        try:
            body = await asyncio.shield(self._answer(record.client))
        except StoreError as lost:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from lost
        record.status, record.source, record.endpoint = 200, "proxy", "quotapool/me"
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"x-quotapool-source", b"proxy"),
        ]
        if (full := down.reply(200, "", headers, len(body), body)) is not None:
            await full

    def _answer(self, client: str) -> asyncio.Future[bytes]:
        """One that is no older than a second, or under way."""
        now = time.monotonic()
        known = self._answers.get(client)
        if known is not None and now - known[0] < _FRESH_S:
            return known[1]
        if len(self._answers) >= _MOST_KEPT:
            self._answers = {name: kept for name, kept in self._answers.items() if now - kept[0] < _FRESH_S}
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_task(self._read(client))
        answer.add_done_callback(_look_at)
        self._answers[client] = now, answer
        return answer

    async def _read(self, client: str) -> bytes:
        options = self._configuration.now.clients.get(client) or ClientOptions()
        by_subject: dict[str, list[Standing]] = {}
        for standing in self._standings(client):
            by_subject.setdefault(standing.subject, []).append(standing)
        reading = await self._stored.read(list(by_subject))
        rules = [
            row_of(subject, level)
            for subject, standings in by_subject.items()
            for level in reading.levels(subject, [s.rule for s in standings], standings[0].zone)
        ]
        made = Standings(
            id=client,
            name=options.name,
            team=options.team,
            models=list(options.models),
            expires_on=None if options.expires_on is None else options.expires_on.isoformat(),
            rules=rules,
            refusals=await self._notes.latest(client),
        )
        return msgspec.json.encode(made)


def _look_at(answer: asyncio.Future[Any]) -> None:
    """Who asked may have left; a failure that nobody looked at would be reported as forgotten."""
    if not answer.cancelled():
        answer.exception()
