"""The admin API's handlers for teams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from quotapool.admin.http import Call, Handler
from quotapool.operators.teams import InvalidTeam, TeamConflict, TeamOperations
from quotapool.settings import Settings
from quotapool.shapes import clients as client_shapes
from quotapool.store.store import Store

TEAM_CODES: Final[dict[type[Exception], str]] = {InvalidTeam: "bad_request", TeamConflict: "conflict"}
"""The API's error codes for what they raise; UnknownTeam, too, is `not_found`."""


class TeamHandlers:
    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._teams = TeamOperations(settings, store)

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "list_teams": self._list,
            "add_team": self._add,
            "show_team": self._show,
            "set_team": self._set,
            "remove_team": self._remove,
        }

    async def _list(self, _: Call) -> Any:
        return {"teams": await self._teams.rows()}

    async def _add(self, call: Call) -> Any:
        body: client_shapes.NewTeam = call.body
        await self._teams.add(body.id, body.options())
        return await self._teams.row(body.id)

    async def _show(self, call: Call) -> Any:
        return await self._teams.row(call.id)

    async def _set(self, call: Call) -> Any:
        await self._teams.set(call.id, call.body.options())
        return await self._teams.row(call.id)

    async def _remove(self, call: Call) -> Any:
        await self._teams.remove(call.id)
        return {"id": call.id, "gone": True}
