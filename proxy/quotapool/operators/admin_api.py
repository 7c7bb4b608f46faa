"""Answers the admin API: from the desk, the store's events and clients, and the book of what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

from quotapool import __version__
from quotapool.domain.states import State
from quotapool.domain.wallet import PICO
from quotapool.keys.master_keys import NoMasterKey
from quotapool.keys.vault import VaultLocked
from quotapool.ledger.clients import ClientStore, digest, new_key
from quotapool.money.spend_store import DAYS_KEPT, SpendStore, Spent
from quotapool.operators import shapes
from quotapool.operators.dispatch import Answerer, Asked
from quotapool.operators.keys import Clash, Entry, KeyOperations, Rejected, Unfit, Unknown, next_step
from quotapool.operators.routes import Problem
from quotapool.settings.values import check_name
from quotapool.store.store import Store, StoreError, text_of

_DIMENSIONS: Final = ("rpm", "tpm", "rpd", "tpd", "ipm")


class AdminApi:
    """`moved` is told when the pool's keys changed by a call; it returns when they are in use here."""

    def __init__(self, desk: KeyOperations, store: Store, moved: Callable[[], Awaitable[None]]) -> None:
        self._desk = desk
        self._store = store
        self._moved = moved
        self._clients = ClientStore(store, desk.settings.pool)

    def by_name(self) -> dict[str, Answerer]:
        """For `web.operators`: who answers which route."""
        mine: dict[str, Answerer] = {
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
            "revoke_client": self._revoke_client,
        }
        for saying in ("disable", "enable", "drain"):
            mine[f"{saying}_key"] = self._sayer(saying)
        return {name: _explained(answer) for name, answer in mine.items()}

    # ---- keys

    async def _list_keys(self, asked: Asked) -> Any:
        rows = await self._desk.rows()
        return {"keys": [row for row in rows if asked.query.state in {None, row["state"]}]}

    async def _show_key(self, asked: Asked) -> Any:
        return await self._desk.row(asked.name)

    async def _add_key(self, asked: Asked) -> Any:
        body: shapes.NewKey = asked.body
        given = {"tier": body.tier, "weight": body.weight, "grants": msgspec.to_builtins(body.grants)}
        entry = Entry(body.secret, body.id, body.account, {name: value for name, value in given.items() if value})
        name, word = await self._desk.add(entry, check=body.check, replace=body.replace)
        await self._moved()
        return {"id": name, "result": word}

    async def _forget_key(self, asked: Asked) -> Any:
        await self._desk.forget(asked.name)
        await self._moved()
        return {"id": asked.name, "gone": True}

    async def _remove_key(self, asked: Asked) -> Any:
        if asked.body.forget:
            await self._forget_key(asked)
            return {"id": asked.name, "state": "forgotten"}
        return await self._sayer("remove")(asked)

    def _sayer(self, saying: str) -> Answerer:
        async def say(asked: Asked) -> Any:
            return {"id": asked.name, "state": (await self._desk.say(saying, asked.name)).value}

        return say

    async def _probe_key(self, asked: Asked) -> Any:
        heard = await self._desk.probe(asked.name)
        row = await self._desk.row(asked.name)
        answer = {"id": asked.name, "valid": heard.ok, "answer": heard.word, "detail": heard.detail}
        return {**answer, "next": next_step(row, heard)}

    # ---- the pool

    async def _show_pool(self, _: Asked) -> Any:
        rows = await self._desk.rows()
        counts = dict.fromkeys([state.value for state in State], 0)
        room: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        counted: set[str] = set()
        for row in rows:
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
            pool=self._desk.settings.pool,
            version=__version__,
            keys=counts,
            accounts=len({row["account"] for row in rows}),
            usable_keys=counts[State.ACTIVE.value],
            room=[shapes.ModelRoom(*name, *sums) for name, sums in sorted(room.items())],
            problem=self._desk.sources.problem,
        )

    async def _list_events(self, asked: Asked) -> Any:
        query: shapes.EventQuery = asked.query
        stream, last = f"{self._desk.overview.ledger.prefix}:events", f"({query.before}" if query.before else "+"
        raw = await self._store.guard(self._store.client.xrevrange(stream, max=last, min="-", count=query.limit))
        events = []
        for name, fields in raw or ():
            data = {text_of(key): text_of(value) for key, value in (fields or {}).items()}
            events.append(shapes.Event(text_of(name or b""), data.pop("at", ""), data))
        return shapes.Events(events)

    async def _show_usage(self, asked: Asked) -> Any:
        query: shapes.UsageQuery = asked.query
        today = datetime.now(UTC).date()
        try:
            since = date.fromisoformat(query.since) if query.since else today.replace(day=1)
            until = date.fromisoformat(query.until) if query.until else today
        except ValueError:
            raise Problem(400, "bad_request", "The query names a day that does not exist.") from None
        if not 0 <= (until - since).days < DAYS_KEPT:
            raise Problem(400, "bad_request", f"until must not be before since, and at most {DAYS_KEPT} days after.")
        totals = await SpendStore(self._store, self._desk.settings.pool).totals(query.by, since, until)
        rows = [_usage_row(day, name, spent) for day, names in sorted(totals.items()) for name, spent in names.items()]
        return shapes.UsageRows(query.by, since.isoformat(), until.isoformat(), rows)

    # ---- clients

    async def _list_clients(self, _: Asked) -> Any:
        configured = [shapes.ClientRow(c.id, "configuration") for c in self._desk.settings.clients]
        stored = sorted((await self._clients.all()).items())
        return shapes.ClientRows(
            [shapes.ClientRow(name, "store", record.added) for name, record in stored] + configured
        )

    async def _add_client(self, asked: Asked) -> Any:
        body: shapes.NewClient = asked.body
        try:
            check_name(body.id)
        except ValueError as error:
            raise Problem(400, "bad_request", f"id {error}") from None
        if any(client.id == body.id for client in self._desk.settings.clients):
            raise Problem(409, "conflict", f"a client {body.id} stands in the configuration")
        key = None if body.key_hash else new_key()
        if key is not None:
            self._desk.redactor.add(key)
        pool = {digest(k.secret.get_secret_value()) for k in self._desk.settings.keys}
        if body.key_hash in pool:
            raise Problem(409, "conflict", "that is a key of the pool; clients must not hold one")
        if not await self._clients.add(body.id, body.key_hash or digest(key or "")):
            raise Problem(409, "conflict", f"a client {body.id} exists; revoke it first")
        return shapes.ClientAdded(body.id, key)

    async def _revoke_client(self, asked: Asked) -> Any:
        if not await self._clients.revoke(asked.name):
            raise Problem(404, "not_found", "no such client in the store")
        return {"id": asked.name, "gone": True}


def _usage_row(day: date, name: str, spent: Spent) -> shapes.UsageRow:
    return shapes.UsageRow(
        day=day.isoformat(),
        name=name,
        exact_usd=spent.exact / PICO,
        estimated_usd=spent.estimated / PICO,
        probes_usd=spent.probes / PICO,
        requests=spent.requests,
        unpriced_requests=spent.unpriced_requests,
        prompt_tokens=spent.prompt_tokens,
        cached_tokens=spent.cached_tokens,
        completion_tokens=spent.completion_tokens,
    )


def _explained(answer: Answerer) -> Answerer:
    """What can go wrong, as the API says it."""

    async def explain(asked: Asked) -> Any:
        try:
            return await answer(asked)
        except Unknown:
            raise Problem(404, "not_found", "no such key") from None
        except Unfit as error:
            raise Problem(400, "bad_request", str(error)) from None
        except Clash as error:
            raise Problem(409, "conflict", str(error)) from None
        except Rejected as error:
            raise Problem(422, "key_refused", str(error)) from None
        except NoMasterKey as error:
            raise Problem(409, "no_master_key", str(error)) from None
        except VaultLocked as error:
            raise Problem(409, "vault_locked", str(error)) from None
        except StoreError:
            raise Problem(503, "store_unavailable", "The store does not answer.") from None

    return explain
