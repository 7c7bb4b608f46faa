"""What a client may do in a session: which models it may name, and where the objects live that it names.

A request over HTTP is sent to the account that keeps what it names. A session has its account already, so what it joins
decides where it opens, and what another account keeps is refused within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from quotapool.objects.placement import ObjectRequest, Objects, about
from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.ids import Reference, object_path
from quotapool.openai.named_models import other_models
from quotapool.openai.reference_marks import involves_objects
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.request.daily_limit import DailyLimit
from quotapool.request.models import may_use
from quotapool.request.policy import PolicyWatch
from quotapool.session.own_objects import OwnObjects
from quotapool.settings import Client

RESPONSES: Final = "responses"
_MODELS: Final = ("model", "deployment")  # Azure's name of it


class ObjectElsewhere(Refusal):
    """An event names what only the accounts `only` have. `may_move`: the session may go on there, for the event names
    nothing that the session made itself."""

    def __init__(self, only: frozenset[str], about: str, *, may_move: bool) -> None:
        super().__init__(replies.OBJECT_ELSEWHERE, about=about)
        self.only = only
        self.may_move = may_move


class SessionPermissions:
    def __init__(
        self, configuration: Configuration, objects: Objects, daily_limit: DailyLimit, policy: PolicyWatch
    ) -> None:
        self._configuration = configuration
        self._objects = objects
        self._daily_limit = daily_limit
        self._policy = policy

    def enter(self, client: Client | None, endpoint: str, query: Mapping[str, str]) -> None:
        """Raises Refusal: the day's money is spent (429), a model that is not the client's (403)."""
        self._daily_limit.check_session()
        named = [query[name] for name in _MODELS if name in query] or [""] * (endpoint != RESPONSES)
        if not all(_may_use(client, model) for model in named):
            raise Refusal(replies.MODEL_NOT_ALLOWED, param="model")

    async def where(self, name: str, endpoint: str, target: str, query: Mapping[str, str]) -> frozenset[str] | None:
        """The accounts that a session of the client `name` must run on: that of the call or session it joins; for
        responses, the one where the client's files and conversations are, if it is known by a key. None: any.

        Raises Refusal (404, 503).
        """
        path = object_path(target)
        if path is None or not path.id:
            if call := query.get("call_id"):
                target = f"/v1/realtime/calls/{quote(call, safe='')}"
            elif endpoint == RESPONSES and name:
                target = "/v1/conversations"
            else:
                return None
        asked = ObjectRequest(endpoint, "GET", target, None, query.get("model", ""), None, name)
        return (await self._objects.place(asked)).only

    async def check(
        self,
        client: Client | None,
        name: str,
        headers: Head,
        own: OwnObjects,
        model: str,
        event: bytes,
        account: str,
    ) -> tuple[bytes, bool]:
        """A `response.create` as it may go up in a session on `account`.

        Raises Refusal: models and objects that are not the client's, objects of another account.
        """
        if not _may_use(client, model):
            raise Refusal(replies.MODEL_NOT_ALLOWED, param="model")
        self._check_models(client, event, model)
        self._daily_limit.check_session()
        is_bound = await self._check_objects(name, own, RESPONSES, event, account, model)
        is_bound = is_bound or event.find(b'"previous_response_id"') >= 0 or event.find(b'"conversation"') >= 0
        if self._configuration.now.settings.safety.identifier:
            event = self._policy.identified(event, name, headers)
        return event, is_bound

    async def check_event(
        self, client: Client | None, name: str, own: OwnObjects, endpoint: str, event: bytes, account: str
    ) -> None:
        """Whether any other event may go up in a session on `account`. Raises Refusal: as `check`."""
        self._check_models(client, event)
        await self._check_objects(name, own, endpoint, event, account)

    def _check_models(self, client: Client | None, event: bytes, known: str = "") -> None:
        """Raises Refusal if a client's event names a model, beside `known`, that the client may not use."""
        if client is None or not client.models:
            return
        try:
            others = other_models(event, known)
        except ValueError as unreadable:
            raise Refusal(replies.INVALID_JSON) from unreadable
        if not all(may_use(client, model) for model in others):
            raise Refusal(replies.MODEL_NOT_ALLOWED, param="model")

    async def _check_objects(
        self, name: str, own: OwnObjects, endpoint: str, event: bytes, account: str, model: str = ""
    ) -> bool:
        """Whether an event of the client `name` needs the account or connection that it is on; the session made its
        `own`. Raises Refusal: objects that are not the client's, objects of another account."""
        names_own = False

        def is_own(named: Reference) -> bool:
            nonlocal names_own
            known = own.has(named)
            names_own = names_own or (known and not named.hint)
            return known

        only = None
        target = f"/v1/{endpoint}"
        if involves_objects(endpoint, "POST", target, event, model=model, store=None, is_keyed=name != ""):
            asked = ObjectRequest(endpoint, "POST", target, event, model, None, name, is_own)
            only = (await self._objects.place(asked)).only
            if only is not None and account not in only:
                raise ObjectElsewhere(only, about(asked), may_move=not names_own)
        return names_own or only is not None

    def own_objects(self, name: str, *, are_listed: bool) -> OwnObjects:
        return OwnObjects(self._objects.owners, name, are_listed=are_listed)


def _may_use(client: Client | None, model: str) -> bool:
    """Whether a client's key is good for this model. One with a list of models has to name one."""
    return client is None or not client.models or (bool(model) and may_use(client, model))
