"""The admin API's handlers: keys by KeyOperations, events, clients and spend from the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from quotapool import __version__
from quotapool.admin.advice_handlers import AdviceHandlers
from quotapool.admin.cache_handlers import CacheHandlers
from quotapool.admin.http import Call, Handler
from quotapool.admin.jobs import JobRunner, Record
from quotapool.admin.now_handlers import NowHandlers
from quotapool.admin.request_handlers import RequestHandlers
from quotapool.admin.routes import ApiError
from quotapool.admin.team_handlers import TEAM_CODES, TeamHandlers
from quotapool.admin.work_handlers import WORK_CODES, WorkHandlers
from quotapool.domain.redact import mask
from quotapool.domain.states import State
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.vault import VaultLocked
from quotapool.money.question import BadQuestionError, question
from quotapool.money.spend_store import SpendStore
from quotapool.money.usage_report import document, report, row_document
from quotapool.observe.events import Events
from quotapool.operators.big_answers import in_turns
from quotapool.operators.cache import CacheOperations
from quotapool.operators.clients import ClientConflict, ClientOperations, InvalidClient, UnknownClient
from quotapool.operators.keys import (
    InvalidKey,
    KeyConflict,
    KeyEntry,
    KeyOperations,
    KeyRejected,
    ProbeNow,
    UnknownKey,
    next_step,
)
from quotapool.operators.teams import UnknownTeam
from quotapool.shapes import clients as client_shapes
from quotapool.shapes import general as shapes
from quotapool.store.store import Store, StoreError

_DIMENSIONS: Final = ("rpm", "tpm", "rpd", "tpd", "ipm")
_MOST_ROWS: Final = 10_000  # of a report of usage


class AdminApi:
    """`on_change` is called when a call has changed the pool's keys; it returns when they are in use here.
    `after_restart`: the options whose new value waits for a restart. To be closed."""

    def __init__(
        self,
        keys: KeyOperations,
        store: Store,
        probe_now: ProbeNow,
        on_change: Callable[[], Awaitable[None]],
        now: NowHandlers,
        advice: AdviceHandlers,
        *,
        record: Record,
        after_restart: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._keys = keys
        self._store = store
        self._probe_now = probe_now
        self._on_change = on_change
        self._clients = ClientOperations(lambda: keys.settings, store)
        self._teams = TeamHandlers(lambda: keys.settings, store)
        self._requests = RequestHandlers(lambda: keys.settings, store)
        self._now = now
        self._advice = advice
        self._cache = CacheHandlers(CacheOperations(lambda: keys.settings, store))
        self._work = WorkHandlers(keys, store, after_restart)
        self._jobs = JobRunner(keys, probe_now, on_change, record=record)

    async def close(self) -> None:
        """Stop what goes on after its call: jobs, questions to OpenAI."""
        await self._jobs.close()
        await self._work.close()

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        handlers: dict[str, Handler] = {
            "list_keys": self._list_keys,
            "add_key": self._add_key,
            "show_key": self._show_key,
            "forget_key": self._forget_key,
            "remove_key": self._remove_key,
            "probe_key": self._probe_key,
            "show_pool": self._show_pool,
            "list_events": self._list_events,
            "show_usage": self._show_usage,
            "list_clients": self._list_clients,
            "add_client": self._add_client,
            "show_client": self._show_client,
            "set_client": self._set_client,
            "rotate_client": self._rotate_client,
            "suspend_client": self._suspend_client,
            "resume_client": self._resume_client,
            "revoke_client": self._revoke_client,
            **self._teams.handlers(),
            **self._requests.handlers(),
            **self._now.handlers(),
            **self._advice.handlers(),
            **self._cache.handlers(),
            **self._work.handlers(),
            **self._jobs.handlers(),
        }
        for action in ("disable", "enable", "drain"):
            handlers[f"{action}_key"] = self._action(action)
        return {name: _with_api_errors(handler) for name, handler in handlers.items()}

    # ---- keys

    async def _list_keys(self, call: Call) -> Any:
        return {"keys": await self._keys.packed_rows(state=call.query.state)}

    async def _show_key(self, call: Call) -> Any:
        return await self._keys.row(call.id)

    async def _add_key(self, call: Call) -> Any:
        body: shapes.NewKey = call.body
        given = {"tier": body.tier, "weight": body.weight, "grants": msgspec.to_builtins(body.grants)}
        entry = KeyEntry(body.secret, body.id, body.account, {name: value for name, value in given.items() if value})
        name, result = await self._keys.add(entry, check=body.check, replace=body.replace)
        await self._on_change()
        return {"id": name, "result": result}

    async def _forget_key(self, call: Call) -> Any:
        await self._keys.forget(call.id, call.actor.name)
        await self._on_change()
        return {"id": call.id, "gone": True}

    async def _remove_key(self, call: Call) -> Any:
        if call.body.forget:
            await self._forget_key(call)
            return {"id": call.id, "state": "forgotten"}
        return await self._action("remove")(call)

    def _action(self, action: str) -> Handler:
        async def handle(call: Call) -> Any:
            return {"id": call.id, "state": (await self._keys.act(action, call.id, call.actor.name)).value}

        return handle

    async def _probe_key(self, call: Call) -> Any:
        check = await self._keys.probe(call.id, self._probe_now, call.actor.name)
        row = await self._keys.row(call.id)
        result = {"id": call.id, "valid": check.ok, "answer": check.answer, "detail": check.detail}
        return {**result, "next": next_step(row, check)}

    # ---- the pool

    async def _show_pool(self, _: Call) -> Any:
        accounts: set[str] = set()
        counts = dict.fromkeys([state.value for state in State], 0)
        room: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        counted: set[str] = set()
        async for row in self._keys.each_row():
            accounts.add(row["account"])
            counts[row["state"]] = counts.get(row["state"], 0) + 1
            if row["state"] != State.ACTIVE.value or row["account"] in counted:
                continue
            counted.add(row["account"])
            for budget in row["budgets"]:
                for dimension in _DIMENSIONS:
                    if level := budget.get(dimension):
                        sums = room[budget["model"], dimension]
                        sums[0] += level["limit"]
                        sums[1] += max(0.0, level["remaining"])
        return shapes.PoolRow(
            pool=self._keys.settings.pool,
            version=__version__,
            keys=counts,
            accounts=len(accounts),
            usable_keys=counts[State.ACTIVE.value],
            room=[shapes.ModelRoom(*name, *sums) for name, sums in sorted(room.items())],
            problem=self._keys.sources.problem,
        )

    async def _list_events(self, call: Call) -> Any:
        query: shapes.EventQuery = call.query
        events = Events(self._store, self._keys.settings.pool)
        found = await events.latest(query.limit, query.matches, before=query.before)
        return shapes.Events([shapes.Event(event.id, event.at, event.data) for event in found])

    async def _show_usage(self, call: Call) -> Any:
        query: shapes.UsageQuery = call.query
        settings, now = self._keys.settings, datetime.now(UTC)
        try:
            asked = question(
                query.by,
                query.since,
                query.until,
                query.every,
                zone=settings.spend.time_zone,
                now=now,
                only=query.only,
                top=query.top,
            )
            found = await report(SpendStore(self._store, settings.pool), asked, now, most_rows=_MOST_ROWS)
        except BadQuestionError as error:
            raise ApiError("bad_request", f"{error.option}: {mask(str(error))}") from None
        rows = [row_document(asked, row) async for row in in_turns(found.rows)]  # 10,000 take 60 ms
        return {**document(msgspec.structs.replace(found, rows=[])), "rows": rows}

    # ---- clients

    async def _list_clients(self, _: Call) -> Any:
        return {"clients": await self._clients.rows()}

    async def _add_client(self, call: Call) -> Any:
        body: client_shapes.NewClient = call.body
        key = await self._clients.add(body.id, body.options(), key_hash=body.key_hash)
        if key is not None:
            self._keys.redactor.add(key)
        return client_shapes.ClientAdded(body.id, key)

    async def _show_client(self, call: Call) -> Any:
        return await self._clients.row(call.id)

    async def _set_client(self, call: Call) -> Any:
        await self._clients.set(call.id, call.body.options())
        return await self._clients.row(call.id)

    async def _rotate_client(self, call: Call) -> Any:
        body: client_shapes.ClientRotation = call.body
        key, until = await self._clients.rotate(call.id, body.overlap_s, key_hash=body.key_hash)
        if key is not None:
            self._keys.redactor.add(key)
        return client_shapes.ClientRotated(call.id, key, until)

    async def _suspend_client(self, call: Call) -> Any:
        return client_shapes.ClientService(call.id, True, await self._clients.suspend(call.id, call.body.reason))

    async def _resume_client(self, call: Call) -> Any:
        return client_shapes.ClientService(call.id, False, await self._clients.resume(call.id))

    async def _revoke_client(self, call: Call) -> Any:
        await self._clients.revoke(call.id)
        return {"id": call.id, "gone": True}


_CODES: Final[dict[type[Exception], str]] = {
    InvalidKey: "bad_request",
    KeyConflict: "conflict",
    ClientConflict: "conflict",
    InvalidClient: "bad_request",
    **TEAM_CODES,
    **WORK_CODES,
    KeyRejected: "key_refused",
    NoMasterKey: "no_master_key",
    VaultLocked: "vault_locked",
}


def _with_api_errors(handler: Handler) -> Handler:
    """The same handler; what it may raise becomes an error of the API."""

    async def handle(call: Call) -> Any:
        try:
            return await handler(call)
        except UnknownKey:
            raise ApiError("not_found", "no such key") from None
        except UnknownClient:
            raise ApiError("not_found", "no such client in the store") from None
        except UnknownTeam:
            raise ApiError("not_found", "no such team in the store") from None
        except tuple(_CODES) as error:
            raise ApiError(_CODES[type(error)], str(error)) from None
        except StoreError:
            raise ApiError("store_unavailable", "The store does not answer.") from None

    return handle
