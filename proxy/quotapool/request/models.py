"""Which models the pool has, and which of them a client may use.

One account's `GET /v1/models` would hide what only others have, so the proxy answers with the union. It is kept, and
refreshed in the background when somebody asks and it is old. A refresh asks a bounded number of accounts, those first
of whom nothing is known, so a pool of thousands is learned bit by bit, and a small one at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import unquote

import msgspec

from quotapool.domain.pool import Account, Pool
from quotapool.domain.request_record import RequestRecord
from quotapool.openai import replies
from quotapool.openai.endpoints import Endpoint
from quotapool.openai.jsontext import BROKEN
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.request.client_request import ClientRequest
from quotapool.request.relay import Downstream
from quotapool.settings import Client

_FRESH_S: Final = 300.0
_MOST_ASKED: Final = 32  # accounts in one refresh
_APART_S: Final = 30.0  # between two refreshes while there are accounts that nothing is known of
_AT_ONCE: Final = 8
_PATIENCE_S: Final = 10.0


class _Listing(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


class _Model(msgspec.Struct, gc=False):
    id: str


_listing: Final = msgspec.json.Decoder(_Listing)
_model: Final = msgspec.json.Decoder(_Model)


def may_use(client: Client | None, model: str) -> bool:
    """Whether a client may use a model. A client without a list may use all."""
    return client is None or not client.models or any(fnmatchcase(model, pattern) for pattern in client.models)


def refuse_model(client: Client | None, job: ClientRequest) -> None:
    """Raises Refusal (403) for models that the client may not use, or if its model cannot be determined."""
    if client is None or not client.models:
        return
    for model in (job.model, *job.models):
        if model and not may_use(client, model):
            message = f"Your client key may not use the model `{model}`. {replies.MODEL_NOT_ALLOWED.remedy}"
            raise Refusal(replies.MODEL_NOT_ALLOWED, message, param="model")
    unread = not job.endpoint.path and not job.endpoint.replayable  # a path of which nothing is known
    if unread or (not job.model and job.endpoint.names_model):
        message = "Your client key may use some models only, so its requests must name theirs at the top of the body."
        raise Refusal(replies.MODEL_NOT_ALLOWED, message, param="model")


def read_listing(body: bytes) -> dict[str, bytes]:
    """Each model of an answer to `GET /v1/models`, as upstream wrote it, by id; empty where it is none."""
    try:
        return {_model.decode(raw).id: bytes(raw) for raw in _listing.decode(body).data}
    except BROKEN:
        return {}


def listed(models: Iterable[bytes]) -> bytes:
    """An answer to `GET /v1/models` in the layout that OpenAI writes."""
    lines = b",\n    ".join(models)
    return b'{\n  "object": "list",\n  "data": [' + (b"\n    " + lines + b"\n  " if lines else b"") + b"]\n}\n"


class Catalogue:
    """The union of what the usable accounts list.

    `fetch` gets a path with a key of an account: (status, body). A key's upstream whose models have other names for
    clients is not asked: the configuration names them.
    """

    def __init__(
        self,
        configuration: Configuration,
        pool: Pool,
        fetch: Callable[[str, str], Awaitable[tuple[int, bytes]]],
    ) -> None:
        self._pool = pool
        self._fetch = fetch
        self._configuration = configuration
        self._texts: dict[str, bytes] = {}
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # accounts that have the same models share one set
        self._known: dict[str, tuple[frozenset[str], float]] = {}  # account -> (model ids, asked at)
        self._looked = -_APART_S
        self._refreshing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Catalogue {len(self._texts)} models of {len(self._known)} accounts>"

    async def serve(self, down: Downstream, endpoint: Endpoint, client: Client | None, record: RequestRecord) -> bool:
        """Answer `GET /v1/models` or one of them. False: it is to be asked upstream like any other request.

        Raises Refusal (404) for a model that the client may not use.
        """
        one = named_in(down.target) if endpoint.path == "models/{id}" else ""
        if one and not may_use(client, one):
            raise Refusal(replies.MODEL_NOT_AVAILABLE, param="model")
        limited = client is not None and bool(client.models)
        if down.method != "GET" or not (self.is_needed or limited):
            return False
        models = await self.models(client)
        body = models.get(one) if one else listed(models.values()) if models or limited else None
        if body is None:
            return False
        record.status, record.source = 200, "proxy"
        headers = [(b"content-type", b"application/json"), (b"x-quotapool-source", b"proxy")]
        if (full := down.reply(200, "", headers, len(body), body)) is not None:
            await full
        return True

    @property
    def is_needed(self) -> bool:
        """Whether there is a union to make: the only account of a pool answers for itself, if it uses our names."""
        accounts = self._pool.accounts
        return len(accounts) > 1 or any(self._names_of(a.keys[0].id) is not None for a in accounts.values())

    async def models(self, client: Client | None) -> Mapping[str, bytes]:
        """What the client may use, by id, each as its upstream wrote it. Empty where nothing is known."""
        usable = self._usable()
        if self._is_due(usable):
            self._looked = time.monotonic()
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.get_running_loop().create_task(self._refresh(usable))
        if self._refreshing is not None and not any(account.id in self._known for account in usable):
            await asyncio.shield(self._refreshing)
        have: set[str] = set()
        for ids in {self._known[account.id][0] for account in usable if account.id in self._known}:
            have |= ids
        return {name: text for name, text in self._texts.items() if name in have and may_use(client, name)}

    def _names_of(self, key: str) -> Iterable[str] | None:
        return self._configuration.now.credentials.names(key)

    def _usable(self) -> list[Account]:
        return [account for account in self._pool.accounts.values() if account.usable]

    def _is_due(self, usable: list[Account]) -> bool:
        if time.monotonic() - self._looked < _APART_S and any(account.id in self._known for account in usable):
            return False
        return any(self._age(account) > _FRESH_S for account in usable)

    def _age(self, account: Account) -> float:
        known = self._known.get(account.id)
        return float("inf") if known is None else time.monotonic() - known[1]

    async def _refresh(self, usable: list[Account]) -> None:
        oldest = sorted(usable, key=self._age, reverse=True)[:_MOST_ASKED]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def learn(account: Account) -> None:
            if not account.usable:
                return
            names = self._names_of(account.usable[0].id)
            if names is not None:
                found = {name: _invented(name) for name in names}
            else:
                async with limit:
                    status, body = await self._fetch(account.id, "/v1/models")
                found = read_listing(body) if status == 200 else {}
            if found:
                for name, text in found.items():
                    self._texts.setdefault(name, text)
                ids = frozenset(found)
                self._known[account.id] = self._sets.setdefault(ids, ids), time.monotonic()

        try:
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.gather(*(learn(account) for account in oldest if self._age(account) > _FRESH_S))
        except TimeoutError:
            pass  # what was learned until then counts
        self._forget()

    def _forget(self) -> None:
        self._known = {name: known for name, known in self._known.items() if name in self._pool.accounts}
        in_use = {ids for ids, _ in self._known.values()}
        self._sets = {ids: ids for ids in in_use}
        have = frozenset[str]().union(*in_use)
        self._texts = {name: text for name, text in self._texts.items() if name in have}


def _invented(name: str) -> bytes:
    """A model that only we know by this name, in OpenAI's layout."""
    quoted = msgspec.json.encode(name)
    members = b'"id": ' + quoted, b'"object": "model"', b'"created": 0', b'"owned_by": "upstream"'
    return b"{\n      " + b",\n      ".join(members) + b"\n    }"


def named_in(target: str) -> str:
    """The model of `/v1/models/{model}`."""
    return "/".join([segment for segment in unquote(target.partition("?")[0]).split("/") if segment][2:])
