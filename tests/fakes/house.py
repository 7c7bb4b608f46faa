"""The request path as a whole, on a real store, between the faked edges of `edge.py`.

    async with open_house(valkey_url, {"a": 1, "b": 2}) as house:     # account a has key a1, account b has b1 and b2
        client = await house.ask()
        assert await house.taken("a") == (1, 30)                      # requests and tokens its bucket is short of

Each account may have 1,000 requests and 1,000,000 tokens a day: refilled so slowly that a test can count them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from quotapool.app.build import build_request_path
from quotapool.domain.access import Use
from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.states import Record, State
from quotapool.keys.keyring import credentials_of, keyring
from quotapool.ledger import local, messages
from quotapool.ledger.budgets import Granted, Ledger
from quotapool.money.price_list import PriceList
from quotapool.observe.redaction import Redactor
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Snapshot
from quotapool.pool.want import Want
from quotapool.request.client_request import ClientRequest
from quotapool.settings import Settings
from quotapool.upstream.interface import Upstream

from tests.fakes.connect import PATIENT_S, connect
from tests.fakes.edge import Client, FakeUpstream, chat_body
from tests.fakes.valkey import free_port

REQUESTS_A_DAY, TOKENS_A_DAY = 1_000, 1_000_000
PLENTY = {"rpm": 100_000, "tpm": 100_000_000, "rpd": REQUESTS_A_DAY, "tpd": TOKENS_A_DAY}
GROUP = "gpt-4o"


class Recorder(Observer):
    """What metrics and logs would have received."""

    def __init__(self) -> None:
        self.legs: list[AttemptRecord] = []
        self.cooled_groups: list[tuple[str, str, str]] = []
        self.states: list[tuple[str, State, str]] = []
        self.groups: list[tuple[str, str]] = []  # (model, group) as upstream told
        self.twins: list[tuple[str, str]] = []  # accounts that turned out to share an organisation
        self.stops: list[tuple[str, str]] = []  # (field, reason) where the brake sounded the alarm
        self.egress: list[tuple[bool, str, bool]] = []  # (trouble begins or ends, why, the pool's first to say so)
        self.policy: list[tuple[str, str]] = []  # (client, reason) of each refusal for policy
        self.suspended: list[str] = []
        self.models: list[str] = []  # that upstream was seen to know
        self.refused_events: list[tuple[str, tuple[str, ...]]] = []  # in sessions: (code, rules of the client)
        self.responses: list[RequestRecord] = []  # in sessions
        self.retries = 0
        self.waiting = 0
        self.streams = 0
        self.sessions: Counter[str] = Counter()  # WebSockets open, by account
        self.results: Counter[str] = Counter()
        self.store_losses: Counter[str] = Counter()

    def attempted(self, leg: AttemptRecord, trip: RequestRecord) -> None:
        self.legs.append(leg)

    def event_refused(self, trip: RequestRecord) -> None:
        self.refused_events.append((trip.code, trip.rules))

    def response_ended(self, record: RequestRecord) -> None:
        self.responses.append(record)

    def retrying(self, leg: AttemptRecord) -> None:
        self.retries += 1

    def cooled(self, account: str, group: str, reason: str) -> None:
        self.cooled_groups.append((account, group, reason))

    def served(self, model: str) -> None:
        self.models.append(model)

    def stream_opened(self, change: int) -> None:
        self.streams += change

    def session_opened(self, account: str, change: int) -> None:
        self.sessions[account] += change

    def reserved(self, result: str) -> None:
        self.results[result] += 1

    def queue_changed(self, change: int) -> None:
        self.waiting += change

    def store_answered(self, seconds: float, items: int) -> None:
        """Nothing to record."""

    def store_failed(self, reason: str) -> None:
        self.store_losses[reason] += 1

    def store_away(self, *, away: bool, why: str = "") -> None:
        self.store_losses["away"] += away

    def state_changed(self, field: str, state: State, reason: str, details: Mapping[str, Any]) -> None:
        self.states.append((field, state, reason))

    def group_learned(self, model: str, group: str) -> None:
        self.groups.append((model, group))

    def same_organization(self, account: str, twin: str) -> None:
        self.twins.append((account, twin))

    def removals_stopped(self, field: str, reason: str) -> None:
        self.stops.append((field, reason))

    def network_refused(self, *, on: bool, reason: str, first: bool) -> None:
        self.egress.append((on, reason, first))

    def policy_refused(self, client: str, reason: str) -> None:
        self.policy.append((client, reason))

    def client_suspended(self, client: str, refusals: int) -> None:
        self.suspended.append(client)


class _WatchedGrant(Granted):
    """Tells the house of its ledger that it was made, and each time that it is settled."""

    def __post_init__(self) -> None:
        if (grants := _GRANTS.get(self.id.rpartition("-")[0])) is not None:
            grants.granted.append(self)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "settled" and (grants := _GRANTS.get(self.id.rpartition("-")[0])) is not None:
            grants.settled[self.id] += 1
        super().__setattr__(name, value)


messages.Granted = local.Granted = _WatchedGrant  # where the ledger makes them


class Grants:
    """Who was granted what by a ledger, how often each grant was settled, and what was asked for."""

    def __init__(self) -> None:
        self.granted: list[Granted] = []
        self.settled: Counter[str] = Counter()
        self.asks: list[Cost] = []  # the cost of each reserve that the store was sent, in order

    def watch(self, ledger: Ledger) -> None:
        _GRANTS[ledger._name] = self
        store, send = ledger.store, ledger.store.evalsha_batch

        def watched(
            script: object, key: object, batch_id: object, body: bytes, *rest: object, **more: object
        ) -> Awaitable[bytes]:
            for item in msgspec.msgpack.decode(body, type=list[list[msgspec.Raw]]):
                if msgspec.msgpack.decode(item[0]) == 1:
                    self.asks.append(Cost(*map(msgspec.msgpack.decode, item[2:5])))
            return send(script, key, batch_id, body, *rest, **more)

        store.evalsha_batch = watched


_GRANTS: WeakValueDictionary[str, Grants] = WeakValueDictionary()  # by the name of a ledger


def snapshot_of(settings: Settings, upstream: Upstream, others: Mapping[str, Upstream] | None = None) -> Snapshot:
    """This configuration before an upstream of the test's own."""
    clients = {client.id: client for client in settings.clients}
    keys = tuple(keyring(settings)[0])
    return Snapshot(settings, keys, credentials_of(settings), upstream, others or {}, clients)


class House:
    def __init__(
        self, url: str, accounts: Mapping[str, int], options: dict[str, Any], call_s: float = PATIENT_S
    ) -> None:
        keys = [
            {"id": f"{account}{n}", "account": account, "secret": f"sk-test-{account}{n}-{'x' * 32}"}
            for account, count in accounts.items()
            for n in range(1, count + 1)
        ]
        self.settings = Settings.model_validate({"limits": {"default": PLENTY}, "keys": keys, **options})
        self.recorder = Recorder()
        self.store = connect(url, timeout_s=call_s)
        self.ledger = Ledger(
            self.store,
            self.settings.pool,
            patience_s=self.settings.store_patience,
            observer=self.recorder,
            on_version=lambda: self.sync.version_moved(),  # noqa: PLW0108 - it is built below
        )
        self.grants = Grants()
        self.grants.watch(self.ledger)
        _, self.secrets = keyring(self.settings)
        self.upstream = FakeUpstream(self.secrets)
        redactor = Redactor()
        for secret in self.secrets.values():
            redactor.add(secret)
        self.prices: PriceList | None = None
        self.noted: list[tuple[ClientRequest, RequestRecord, str, int]] = []  # for advice
        self.paths = build_request_path(
            snapshot_of(self.settings, self.upstream),
            self.ledger,
            self.recorder,
            redactor.clean_bytes,
            prices=lambda: self.prices,
            note=lambda *of_request: self.noted.append(of_request),
        )
        self.roster, self.sync, self.health = self.paths.roster, self.paths.sync, self.paths.health
        self.admission, self.auth = self.paths.admission, self.paths.auth

    def configure(self, settings: Settings | None = None, **parts: Any) -> None:
        """Another configuration, as a reload brings it. `parts`: of the snapshot, such as `upstream` or `others`."""
        old = self.paths.configuration.now
        self.settings = settings or self.settings
        new = snapshot_of(self.settings, old.upstream, old.others)
        self.paths.take(replace(new, **parts), self.roster.prepare(self.settings, new.keys))

    def lose_the_store(self) -> None:
        """From now on every call to the store fails at once."""
        nowhere = connect(f"redis://127.0.0.1:{free_port()}/0")
        self.store.client = nowhere.client

    # ---- clients

    async def ask(self, client: Client | None = None, trip: RequestRecord | None = None) -> Client:
        """One request, answered as the listener would; everything it set off has come to an end."""
        client = client or Client(chat_body())
        async with asyncio.timeout(10):  # no story here takes a second
            await self.serve(client, trip or RequestRecord("test", time.monotonic(), client.method))
            await self.quiet()
        return client

    async def serve(self, client: Client, trip: RequestRecord) -> None:
        try:
            await self.paths.requests.serve(client, trip)
        except Refusal as refusal:
            assert not client.started
            trip.rules = refusal.rules
            body = refusal.body()
            if (full := client.reply(refusal.status, "", refusal.headers(), len(body), body)) is not None:
                await full

    async def quiet(self) -> None:
        """Until all is settled and told to the store, and lines that were left are closed."""
        while True:
            queues = self.admission._queues.values()
            tasks = {q.serving for q in queues if q.serving is not None and not q.waiting} | self.sync._tasks
            if not tasks:
                break
            await asyncio.wait(tasks)
        await self.paths.alarm.wait_idle()
        await self.paths.policy.wait_idle()
        await self.ledger.flush()

    def is_idle(self) -> bool:
        """Whether nothing is left of all requests: no place in line or in a budget, no open answer or stream."""
        retries = self.paths.slots
        return (
            (retries.active, retries.retrying, self.upstream.open, self.recorder.waiting, self.recorder.streams)
            == (0, 0, 0, 0, 0)
            and repr(self.admission) == "<Admission queues=0 waiting=0>"
            and all(self.grants.settled[g.id] == 1 for g in self.grants.granted)
            and all(times == 1 for times in self.grants.settled.values())
        )

    @property
    def accounts_asked(self) -> list[str]:
        """Whose keys upstream saw, in order."""
        return [self.account_of(sent.key) for sent in self.upstream.sent]

    def account_of(self, key: str) -> str:
        return self.roster.pool.keys[key].account

    # ---- what the store says

    async def bucket(self, account: str, group: str = GROUP) -> Bucket | None:
        _, found = await self.ledger.stored.all()
        return found.get((account, group))

    async def taken(self, account: str, group: str = GROUP) -> tuple[int, int]:
        """(requests, tokens) that this account's daily buckets are short of; tokens to the nearest ten."""
        bucket = await self.bucket(account, group)
        if bucket is None:
            return 0, 0
        requests = bucket.corrected[DIMENSIONS.index(Dimension.RPD)]
        tokens = bucket.corrected[DIMENSIONS.index(Dimension.TPD)]
        assert requests is not None
        assert tokens is not None
        return round(REQUESTS_A_DAY - requests), round((TOKENS_A_DAY - tokens) / 10 - 1) * 10

    async def rests_s(self, account: str, group: str = GROUP) -> float:
        """Seconds of cool-down that this account's bucket has left."""
        bucket = await self.bucket(account, group)
        return max(0.0, bucket.cool_until - bucket.at) if bucket else 0.0

    async def states(self) -> dict[str, Record]:
        return await self.ledger.registry.records()

    # ---- the line

    def want(self, tokens: int = 1000, max_wait_s: float = 5.0, model: str = GROUP) -> Want:
        return Want(model, Use(model), Cost(1, tokens), may_try_resting=True, max_wait_s=max_wait_s)

    async def drain(self, account: str, tokens: float, group: str = GROUP) -> None:
        """Take so much from an account's tokens a minute that `tokens` are left, or fewer than none, as another
        replica might. It takes one request, too."""
        candidate = self.roster.candidate(self.roster.pool.accounts[account].keys[0], group)
        granted = await Ledger.reserve(self.ledger, group, Cost(1, 0), [candidate])
        assert isinstance(granted, Granted)
        bucket = await self.bucket(account, group)
        assert bucket is not None
        level = bucket.level(DIMENSIONS.index(Dimension.TPM))
        assert level is not None
        Ledger.settle(self.ledger, granted, unused_tokens=min(0.0, tokens - level))
        await self.ledger.flush()

    async def close(self) -> None:
        await self.quiet()
        await self.store.close()


@contextlib.asynccontextmanager
async def open_house(
    url: str, accounts: Mapping[str, int], /, *, call_s: float = PATIENT_S, **options: Any
) -> AsyncIterator[House]:
    """`accounts`: how many keys each has. `options` as in the configuration file. `call_s`: the store's, for a call."""
    house = House(url, accounts, options, call_s)
    await house.ledger.registry.begin_epoch(reseeded=False)
    await house.sync.refresh()
    try:
        yield house
    finally:
        await house.close()
