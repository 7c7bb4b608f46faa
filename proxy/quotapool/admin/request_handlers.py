"""The last requests for operators: the admin API's handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quotapool.admin.http import Call, Handler
from quotapool.admin.routes import ApiError
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.request_store import RequestStore
from quotapool.reports.evidence import explanation_of, not_kept
from quotapool.settings import Settings
from quotapool.shapes.requests import RequestQuery, RequestRows, row_of
from quotapool.store.store import Store


class RequestHandlers:
    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._settings = settings
        self._store = store
        self._requests = RequestStore(store, settings().pool)

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"list_requests": self._list, "show_request": self._show, "explain_request": self._explain}

    async def _list(self, call: Call) -> Any:
        query: RequestQuery = call.query
        return RequestRows([row_of(kept) for kept in await self._requests.latest(query.limit, query.matches)])

    async def _show(self, call: Call) -> Any:
        return row_of(await self._found(call))

    async def _explain(self, call: Call) -> Any:
        return await explanation_of(await self._found(call), self._settings(), self._store)

    async def _found(self, call: Call) -> KeptRequest:
        kept = await self._requests.find(call.id)
        if kept is None:
            raise ApiError("not_found", not_kept(self._settings()))
        return kept
