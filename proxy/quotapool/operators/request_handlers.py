"""The admin API's handlers for the last requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quotapool.observe.request_store import RequestStore
from quotapool.operators.admin_http import Call, Handler
from quotapool.operators.admin_routes import ApiError
from quotapool.operators.request_shapes import RequestQuery, RequestRows, row_of
from quotapool.settings import Settings
from quotapool.store.store import Store


class RequestHandlers:
    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._settings = settings
        self._requests = RequestStore(store, settings().pool)

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"list_requests": self._list, "show_request": self._show}

    async def _list(self, call: Call) -> Any:
        query: RequestQuery = call.query
        return RequestRows([row_of(kept) for kept in await self._requests.latest(query.limit, query.matches)])

    async def _show(self, call: Call) -> Any:
        kept = await self._requests.find(call.id)
        if kept is None:
            raise ApiError("not_found", not_kept(self._settings()))
        return row_of(kept)


def not_kept(settings: Settings) -> str:
    """Why a request may be unknown, in one line."""
    if not settings.requests_kept:
        return "no such request: none are kept, since requests_kept is 0"
    return (
        f"no such request is kept: the last {settings.requests_kept:,} of the pool are, for at most 7 days, "
        "and each is there half a second after its end"
    )
