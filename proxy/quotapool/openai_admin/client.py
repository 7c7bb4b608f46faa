"""A client of OpenAI's admin API: projects, rate limits, spend limits, keys, costs and usage of one organisation.

Reads only. It is used in the supervisor and in commands, never in a worker: an admin key serves no request.
Every method raises NoAnswer, whose text is for operators and contains no secret.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from quotapool.openai_admin.json_reader import JsonReader, NoAnswer, Query
from quotapool.openai_admin.shapes import (
    ApiKey,
    BucketPage,
    CostResult,
    ObjectPage,
    Project,
    RateLimit,
    SpendLimit,
    UsageResult,
)

R = TypeVar("R")
_MOST_PAGES: Final = 200
_OBJECTS: Final = 100  # on a page, the most that OpenAI gives
_COST_DAYS: Final = 180
_USAGE_DAYS: Final = 31
_SCOPES: Final = re.compile(r"Missing scopes: ([\w.:, -]+?)(?:\.\s|\.?$)")


@dataclass(frozen=True, slots=True)
class KeyCost:
    """What one key of one project cost on one day (UTC). None: OpenAI does not name it."""

    day: date
    project: str | None
    api_key: str | None
    usd: Decimal


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What one key used on one day (UTC) in chat, completions and responses."""

    day: date
    project: str | None
    api_key: str | None
    requests: int
    input_tokens: int
    output_tokens: int


class Organisation:
    """What one admin key may read. `page`: objects on a page, 1 to 100."""

    def __init__(self, reader: JsonReader, *, page: int = _OBJECTS) -> None:
        self._reader = reader
        self._page = page

    async def projects(self) -> list[Project]:
        """Those that are not archived."""
        found = await self._objects("/organization/projects", ObjectPage[Project], lambda project: project.id)
        return [project for project in found if project.status != "archived"]

    async def rate_limits(self, project: str) -> list[RateLimit]:
        path = f"/organization/projects/{project}/rate_limits"
        return await self._objects(path, ObjectPage[RateLimit], lambda limit: limit.id)

    async def api_keys(self, project: str) -> list[ApiKey]:
        """All enabled keys, of any owner."""
        path = f"/organization/projects/{project}/api_keys"
        any_owner = (("owner_project_access", "any"),)
        return await self._objects(path, ObjectPage[ApiKey], lambda key: key.id, any_owner)

    async def spend_limit(self, project: str | None = None) -> SpendLimit | None:
        """The hard monthly limit of a project, else of the organisation; None if there is none."""
        scope = "" if project is None else f"/projects/{project}"
        try:
            return await self._reader.get(f"/organization{scope}/spend_limit", SpendLimit)
        except NoAnswer as refused:
            if refused.found:
                raise
            return None

    async def costs(self, since: date, until: date) -> list[KeyCost]:
        """By day, project and key, both days included."""
        query = (*_span(since, until), ("limit", _COST_DAYS))
        return [
            KeyCost(day, result.project_id, result.api_key_id, result.amount.value)
            async for day, result in self._days("/organization/costs", BucketPage[CostResult], query)
            if result.amount is not None and result.amount.value is not None
        ]

    async def usage(self, since: date, until: date) -> list[KeyUsage]:
        """Requests and tokens by day, project and key, both days included: chats, responses and embeddings, which is
        nearly all that passes here. The other kinds have pages of their own, which are not read."""
        query = (*_span(since, until), ("limit", _USAGE_DAYS))
        return [
            KeyUsage(day, r.project_id, r.api_key_id, r.num_model_requests, r.input_tokens, r.output_tokens)
            for kind in ("completions", "embeddings")
            async for day, r in self._days(f"/organization/usage/{kind}", BucketPage[UsageResult], query)
        ]

    async def _objects(
        self, path: str, shape: type[ObjectPage[R]], id_of: Callable[[R], str], query: Query = ()
    ) -> list[R]:
        found: list[R] = []
        after: tuple[tuple[str, str], ...] = ()
        for _ in range(_MOST_PAGES):
            page = await self._reader.get(path, shape, (*query, ("limit", self._page), *after))
            found += page.data
            last = page.last_id or (id_of(page.data[-1]) if page.data else None)
            if not page.has_more or last is None or after == (("after", last),):
                return found
            after = (("after", last),)
        raise _too_many(path)

    async def _days(self, path: str, shape: type[BucketPage[R]], query: Query) -> AsyncIterator[tuple[date, R]]:
        following: tuple[tuple[str, str], ...] = ()
        for _ in range(_MOST_PAGES):
            page = await self._reader.get(path, shape, (*query, *following))
            for bucket in page.data:
                day = datetime.fromtimestamp(bucket.start_time, UTC).date()
                for result in bucket.results:
                    yield day, result
            if not page.has_more or not page.next_page or following == (("page", page.next_page),):
                return
            following = (("page", page.next_page),)
        raise _too_many(path)


def admin_key_refused(status: int, message: str) -> str:
    """What a 401 or 403 of the admin API means, for the operator who configured the key."""
    scopes = _SCOPES.search(message)
    if scopes is not None:
        return (
            f"this key may not read that: it lacks the permission {scopes[1].strip()}. OpenAI's admin API takes an "
            "admin key (sk-admin-...) with that permission; a project's key never has it"
        )
    if "session key" in message:
        return "OpenAI takes only a browser's login (sess-...) there"
    if status == 401:
        return (
            f"OpenAI does not accept this admin key (revoked, expired or mistyped): make a new one. It said: {message}"
        )
    return f"OpenAI refuses this admin key: {message}"


def _span(since: date, until: date) -> Query:
    """By day, project and key."""
    start = datetime.combine(since, time(), UTC)
    end = datetime.combine(until + timedelta(days=1), time(), UTC)
    groups = (("bucket_width", "1d"), ("group_by[]", "project_id"), ("group_by[]", "api_key_id"))
    return (("start_time", int(start.timestamp())), ("end_time", int(end.timestamp())), *groups)


def _too_many(path: str) -> NoAnswer:
    return NoAnswer(f"OpenAI's {path} has more than {_MOST_PAGES} pages", final=False)
