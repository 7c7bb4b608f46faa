"""What a client may do in a session: which models it may name, and where the objects live that it names.

A request over HTTP is sent to the account that keeps what it names. A session has its account already, so what it joins
decides where it opens, and what another account keeps is refused within it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, quote

from quotapool.objects.placement import ObjectRequest, Objects, about, involves_objects
from quotapool.openai import replies
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.request.daily_limit import DailyLimit
from quotapool.request.models import may_use
from quotapool.request.policy import PolicyWatch
from quotapool.session.own_objects import OwnObjects
from quotapool.settings import Client

RESPONSES: Final = "responses"
_JOINED: Final = re.compile(r"/v1/live/sessions/[^/?]+/")


class SessionPermissions:
    def __init__(
        self, configuration: Configuration, objects: Objects, daily_limit: DailyLimit, policy: PolicyWatch
    ) -> None:
        self._configuration = configuration
        self._objects = objects
        self._daily_limit = daily_limit
        self._policy = policy

    def enter(self, client: Client | None, endpoint: str, model: str) -> None:
        """Raises Refusal: the day's money is spent (429), a model that is not the client's (403)."""
        self._daily_limit.check_session()
        if endpoint != RESPONSES and not _may_use(client, model):
            raise Refusal(replies.MODEL_NOT_ALLOWED, param="model")

    async def where(self, name: str, endpoint: str, target: str, model: str) -> frozenset[str] | None:
        """The accounts that a session of the client `name` must run on: that of the call or session it joins; for
        responses, the one where the client's files and conversations are, if it is known by a key. None: any.

        Raises Refusal (404, 503).
        """
        calls = parse_qs(target.partition("?")[2]).get("call_id", [])
        if calls:
            target = f"/v1/realtime/calls/{quote(calls[0], safe='')}"
        elif endpoint == RESPONSES and name:
            target = "/v1/conversations"
        elif not _JOINED.match(target):
            return None
        return (await self._objects.place(ObjectRequest(endpoint, "GET", target, None, model, None, name))).only

    async def check(
        self,
        client: Client | None,
        name: str,
        headers: Mapping[str, str],
        own: OwnObjects,
        model: str,
        event: bytes,
        account: str,
    ) -> bytes:
        """A `response.create` as it may go up in a session on `account`.

        Raises Refusal: models and objects that are not the client's, objects of another account.
        """
        if not _may_use(client, model):
            raise Refusal(replies.MODEL_NOT_ALLOWED, param="model")
        self._daily_limit.check_session()
        await self.check_objects(name, own, RESPONSES, event, account, model)
        if self._configuration.now.settings.safety.identifier:
            return self._policy.identified(event, name, headers)
        return event

    async def check_objects(
        self, name: str, own: OwnObjects, endpoint: str, event: bytes, account: str, model: str = ""
    ) -> None:
        """Whether an event of the client `name` may go up in a session on `account`. The session made its `own`.

        Raises Refusal: objects that are not the client's, objects of another account.
        """
        asked = ObjectRequest(endpoint, "POST", f"/v1/{endpoint}", event, model, None, name, own.has)
        if involves_objects(asked):
            only = (await self._objects.place(asked)).only
            if only is not None and account not in only:
                raise Refusal(replies.OBJECT_ELSEWHERE, about=about(asked))

    def own_objects(self, name: str, *, are_listed: bool) -> OwnObjects:
        return OwnObjects(self._objects.owners, name, are_listed=are_listed)


def _may_use(client: Client | None, model: str) -> bool:
    """Whether a client's key is good for this model. One with a list of models has to name one."""
    return client is None or not client.models or (bool(model) and may_use(client, model))
