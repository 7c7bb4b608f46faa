"""The control API under /_sim/: what was received, and what is to go wrong next. Unprotected: for loopback only."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from aiohttp import web

from quotapool.simulator.accounts import Account, Directory, Key
from quotapool.simulator.billing import reply
from quotapool.simulator.config import AccountConfig
from quotapool.simulator.faults import CATALOGUE, FaultRequest
from quotapool.simulator.log import RequestLog

T = TypeVar("T")
DEFAULT_LOG_LENGTH: Final = 50


class Control:
    """Handlers:

    GET /_sim/stats; GET /_sim/log?n=50; POST /_sim/reset; POST /_sim/accounts (an `AccountConfig`);
    POST and DELETE /_sim/keys/{secret or index}/fault and /_sim/accounts/{id}/fault (a `FaultRequest`).
    """

    def __init__(self, directory: Directory, log: RequestLog) -> None:
        self.directory = directory
        self.log = log

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/_sim/stats", self.stats)
        router.add_get("/_sim/log", self.last_requests)
        router.add_post("/_sim/reset", self.reset)
        router.add_post("/_sim/accounts", self.put_account)
        for owner in ("/_sim/keys/{key}", "/_sim/accounts/{account}"):
            router.add_post(owner + "/fault", self.set_fault)
            router.add_delete(owner + "/fault", self.clear_fault)

    async def stats(self, _request: web.Request) -> web.Response:
        return reply({**self.directory.report(), "calls": self.log.called()})

    async def last_requests(self, request: web.Request) -> web.Response:
        wanted = request.query.get("n", str(DEFAULT_LOG_LENGTH))
        if not wanted.isdecimal() or int(wanted) < 1:
            raise problem(web.HTTPBadRequest, "n must be a positive number")
        return reply({"requests": self.log.last(int(wanted))})

    async def reset(self, _request: web.Request) -> web.Response:
        self.directory.reset()
        self.log.clear()
        return reply({"reset": True})

    async def put_account(self, request: web.Request) -> web.Response:
        config = decoded(await request.read(), AccountConfig)
        try:
            keys = self.directory.put(config)
        except ValueError as error:
            raise problem(web.HTTPConflict, str(error)) from error
        return reply({"id": config.id, "keys": [{"index": key.index, "secret": key.secret} for key in keys]})

    async def set_fault(self, request: web.Request) -> web.Response:
        owner = self.owner(request)
        wanted = decoded(await request.read(), FaultRequest)
        if wanted.fault not in CATALOGUE:
            known = ", ".join(CATALOGUE)
            raise problem(web.HTTPBadRequest, f"unknown fault {wanted.fault!r}; known: {known}")
        owner.slot.set(wanted)
        return reply({"fault": wanted})

    async def clear_fault(self, request: web.Request) -> web.Response:
        self.owner(request).slot.set(None)
        return reply({"fault": None})

    def owner(self, request: web.Request) -> Key | Account:
        """The key or account that a path names."""
        found: Key | Account | None
        if "key" in request.match_info:
            found = self.directory.find(request.match_info["key"])
        else:
            found = self.directory.accounts.get(request.match_info["account"])
        if found is None:
            raise problem(web.HTTPNotFound, "no such key or account")
        return found


def problem(kind: type[web.HTTPClientError], message: str) -> web.HTTPClientError:
    return kind(text=msgspec.json.encode({"error": message}).decode(), content_type="application/json")


def decoded(body: bytes, kind: type[T]) -> T:
    """The body as `kind`; HTTP 400 says what is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise problem(web.HTTPBadRequest, str(error)) from error
