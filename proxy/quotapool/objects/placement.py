"""Where a request must go: to the account of the objects it names, to its client's home, or anywhere.

    names an id          the account that made it, and no other; all ids it names must live on one
    makes or lists       the client's home account, so that a client sees one consistent world
    /responses, chats    anywhere, unless they name an id

Where clients have keys, an id belongs to who made it. Another client's id and one that does not exist get the same
answer, made here, after the same work. `docs/objects.md` tells the rules as a story.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from quotapool.objects.answer_reader import AnswerReader, Fetch, Task
from quotapool.objects.layout import Owner, account_mark, owner_of
from quotapool.objects.owners import ObjectOwners
from quotapool.openai import ids, replies
from quotapool.openai.ids import CHAT, ENCRYPTED, FILE, ITEM, MODEL, OTHER, PROMPT, RESPONSE, ObjectPath, Reference
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.pool.roster import Roster
from quotapool.store.store import StoreError

_MOST_SEARCHED: Final = 10  # accounts that are asked for an object nobody knows
_ANYWHERE: Final = frozenset({RESPONSE, CHAT, ids.CALL, ids.LIVE})  # what is made wherever there is room
_HEARD_ELSEWHERE: Final = frozenset({OTHER, ids.CALL, ids.LIVE})  # webhooks tell ids of calls that no answer told
_GZIP: Final = b"\x1f\x8b"  # RFC 1952 §2.3.1
_DEFLATED: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")  # RFC 1950 §2.2
_SHARED: Final = frozenset({MODEL, PROMPT})  # everyone's who knows the name
_NOT_LOOKED_UP: Final = frozenset({ITEM, ENCRYPTED, OTHER, *_SHARED})  # upstream has no path to ask for them alone


class ObjectRequest(msgspec.Struct, eq=False):
    """What placement must know of a request. `body` None: it streams, or there is none. `store` as the body says."""

    endpoint: str
    method: str
    target: str
    body: bytes | None
    model: str
    store: bool | None
    client: str  # "" where clients have no keys


@dataclass(frozen=True, slots=True)
class Placement:
    """`only`: the accounts that may serve it, None: any. `keeper`: reads the answer, None: nobody need."""

    only: frozenset[str] | None
    keeper: AnswerReader | None


class ObjectMissing(Refusal):
    """OpenAI's answer to an id that it does not know, said by the proxy."""

    def __init__(self, named: Reference) -> None:
        super().__init__(replies.OBJECT_NOT_FOUND, named.kind.missing.format(id=named.id))
        self._named = named
        self.status = 400 if named.param and named.kind in {RESPONSE, FILE} else 404

    def body(self) -> bytes:
        named = self._named
        message, code, param = named.kind.missing.format(id=named.id), named.kind.code, named.param or None
        if named.param and named.kind is RESPONSE:
            message, code = f"Previous response with id '{named.id}' not found.", "previous_response_not_found"
        elif named.param and named.kind is FILE:
            message = f"Cannot find file {named.id}, or your project does not have access to it."
        elif named.kind is FILE:
            param = "id"
        return replies.error_body(message, "invalid_request_error", code, param)


def concerns(asked: ObjectRequest) -> bool:
    """Whether a request has to do with stored objects at all: asked of every request, so only bytes are searched."""
    body = asked.body
    if asked.model[:3] == MODEL.prefix:
        return True
    if asked.target == "/v1/chat/completions" and asked.method == "POST":
        return asked.store is True or (
            body is not None and ids.may_reference("chat", body, strictly=asked.client != "")
        )
    if asked.endpoint in {"completions", "embeddings", "moderations"}:
        return False
    if ids.object_path(asked.target) is not None:
        return True
    return body is not None and ids.may_reference(asked.endpoint, body, strictly=True)


class Objects:
    """Places requests. `fetch` asks the accounts for ids that nobody knows, if `objects.search` is on."""

    def __init__(self, configuration: Configuration, book: ObjectOwners, roster: Roster, fetch: Fetch) -> None:
        self.book = book
        self._configuration = configuration
        self._roster = roster
        self._fetch = fetch

    async def place(self, asked: ObjectRequest) -> Placement:
        """Raises Refusal: ids unknown to this client, ids that live apart, an account that is out, a store away."""
        try:
            return await self._place(asked)
        except StoreError as gone:
            # Elsewhere upstream would say that the object does not exist, and the client would believe it.
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone

    async def _place(self, asked: ObjectRequest) -> Placement:
        place = ids.object_path(asked.target)
        named = _named(asked, place)
        accounts = await self._accounts_of(asked, named) if named else set()
        only = frozenset(accounts) or None
        if only is None and self._at_home(asked, place, named):
            only = frozenset({await self._home(asked.client, makes=asked.method == "POST")})
        return Placement(only, self._keeper(asked, place))

    def _at_home(self, asked: ObjectRequest, place: ObjectPath | None, named: Sequence[Reference]) -> bool:
        if any(not name.hint for name in named):
            return True  # unknown to us: where this client's objects are is the best guess
        if place is None or place.kind is MODEL:
            return False
        return asked.method != "POST" or place.kind not in _ANYWHERE

    # ---- ids

    async def _accounts_of(self, asked: ObjectRequest, named: Sequence[Reference]) -> set[str]:
        owners = await self.book.find([(name.kind, name.id) for name in named], asked.client)
        mine = owner_of("", asked.client).client
        where: dict[str, list[Reference]] = {}
        for name, owner in zip(named, owners, strict=True):
            # Whoever holds encrypted words may send them back, too.
            is_owned = bool(asked.client) and not (name.hint and name.kind in {ENCRYPTED, *_SHARED})
            if owner is None or (is_owned and owner.client not in {b"", mine}):
                account = await self._unknown(asked, name, foreign=owner is not None)
            else:
                account = self._account(name, owner)
            if account is not None:
                where.setdefault(account, []).append(name)
        return self._common(where)

    def _common(self, where: dict[str, list[Reference]]) -> set[str]:
        """The accounts that can serve all that is named. Raises Refusal where there is none."""
        firm = {account: [n for n in names if not n.hint] for account, names in where.items()}
        firm = {account: names for account, names in firm.items() if names}
        if len(firm) > 1:
            raise Refusal(replies.OBJECTS_APART, _apart(firm))
        if firm or not where:
            return set(firm)
        account = list(where)[-1]
        if all(name.kind is ENCRYPTED for name in where[account]):  # any account of the organisation can read it
            accounts = self._roster.pool.accounts
            organization = accounts[account].organization
            if organization:
                return {other.id for other in accounts.values() if other.organization == organization}
        return {account}

    async def _unknown(self, asked: ObjectRequest, name: Reference, *, foreign: bool) -> str | None:
        """The account of an object that is unknown, as far as this client may know. Raises ObjectMissing."""
        if name.hint:
            return None
        if self._configuration.now.settings.objects.search and name.kind not in _NOT_LOOKED_UP:
            account = await self._search(asked.client, name)
            if account is not None and not foreign:
                self.book.remember([(name.kind, name.id)], account, asked.client)
                return account
        if asked.client and (foreign or name.kind not in _HEARD_ELSEWHERE):
            raise ObjectMissing(name)
        return None

    async def _search(self, client: str, name: Reference) -> str | None:
        """Ask the accounts one by one, the client's home first."""
        path = next(path for path, kind in ids.COLLECTIONS.items() if kind is name.kind)
        usable = self._usable()
        home = await self.book.home(client)
        order = sorted(usable, key=lambda account: (account != home, -_weight(client, account)))
        for account in order[:_MOST_SEARCHED]:
            status, _ = await self._fetch(account, f"/v1/{path}/{quote(name.id)}")
            if status == 200:
                return account
        return None

    def _account(self, name: Reference, owner: Owner) -> str | None:
        """The account's name. Raises Refusal where it can serve nobody; None where that does not matter."""
        accounts = self._roster.pool.accounts.values()
        account = next((account for account in accounts if account_mark(account.id) == owner.account), None)
        if account is None:  # one that was merged into another
            merged = (twin for old, twin in self._roster.merged.items() if account_mark(old) == owner.account)
            account = self._roster.pool.accounts.get(next(merged, ""))
        if account is not None and (account.usable or name.kind in {ENCRYPTED, *_SHARED}):
            return account.id
        if name.hint:  # its account is gone, so it is history
            return None
        self.book.doubt(name.id)  # an operator may have it forgotten
        raise Refusal(replies.OBJECT_ACCOUNT_UNAVAILABLE, _out(name.id, account.id if account else ""))

    # ---- homes

    async def _home(self, client: str, *, makes: bool) -> str:
        """The client's home account. While it is out, what the client makes moves it to another one, for good; lists
        wait for it, since an empty list would be a lie. Raises Refusal."""
        home = await self.book.home(client)
        pool = self._roster.pool
        known = pool.accounts.get(home) if home else None
        if known is not None and known.usable:
            return known.id
        if known is not None and not makes:
            raise Refusal(replies.OBJECT_ACCOUNT_UNAVAILABLE, _out("your stored objects", known.id))
        usable = self._usable()
        if not usable:
            raise Refusal(replies.OBJECT_ACCOUNT_UNAVAILABLE)
        account = max(usable, key=lambda account: _weight(client, account))
        await self.book.settle_in(client, account)
        return account

    def _usable(self) -> list[str]:
        return [account.id for account in self._roster.pool.accounts.values() if account.usable]

    # ---- answers

    def _keeper(self, asked: ObjectRequest, place: ObjectPath | None) -> AnswerReader | None:
        if place is None:
            return None
        task = Task.NOTHING
        if place.kind in {RESPONSE, CHAT} and asked.method == "POST" and not place.id:
            keeps = asked.store is True if place.kind is CHAT else True
            if place.kind is RESPONSE and asked.store is False:
                task = Task.ENCRYPTED  # nothing is stored, but what is encrypted binds the next turn
            elif keeps and not place.tail:
                task = Task.LEARN
        elif asked.method == "DELETE" and place.id and not place.tail:
            task = Task.FORGET
        elif asked.method == "POST":
            task = Task.LEARN
        elif asked.method == "GET" and not place.id and not place.tail:
            task = Task.LIST
        elif asked.method == "GET" and place.tail != "content" and not place.tail.endswith("/content"):
            task = Task.LEARN
        if task is Task.NOTHING:
            return None
        return AnswerReader(self.book, place, asked.client, task, target=asked.target, fetch=self._fetch)

    # ---- forms

    def watched(self, form: AsyncIterator[bytes], asked: ObjectRequest) -> AsyncIterator[bytes]:
        """A streamed body, read for ids as it passes, where other clients have some and a form may name one."""
        place = ids.object_path(asked.target)
        if not asked.client or place is None or place.kind is FILE or place.tail == "parts":
            return form
        return self._reading(form, asked)

    async def _reading(self, form: AsyncIterator[bytes], asked: ObjectRequest) -> AsyncIterator[bytes]:
        """What names an object that is not the client's, or may hide one, never ends. Raises Refusal."""
        tail, began = b"", False
        async for piece in form:
            tail += piece
            if not began and len(tail) >= len(_GZIP):
                began = True
                if tail.startswith((_GZIP, *_DEFLATED)):  # no form begins so: upstream might unpack it
                    raise Refusal(replies.INVALID_JSON, "A compressed form cannot be read here; send it as it is.")
            if named := ids.references_in_form(tail):
                await self._accounts_of(asked, named)
            tail = tail[-ids.FORM_TAIL :]
            yield piece


def _named(asked: ObjectRequest, place: ObjectPath | None) -> list[Reference]:
    named: list[Reference] = []
    if place is not None:
        if place.id:
            named.append(Reference(place.kind, place.id, hint=place.kind is MODEL and asked.method != "DELETE"))
        named += ids.cursors(place)
    if asked.model.startswith(MODEL.prefix):
        named.append(Reference(MODEL, asked.model, "model", hint=True))
    body = asked.body
    if (
        body
        and asked.method in {"POST", "PUT", "PATCH"}
        and ids.may_reference(asked.endpoint, body, strictly=asked.client != "")
    ):
        try:
            named += ids.references_in(body, strictly=asked.client != "")
        except ValueError as unreadable:
            raise Refusal(replies.INVALID_JSON) from unreadable
    return named


def _apart(where: dict[str, list[Reference]]) -> str:
    groups = [", ".join(name.id for name in names) for names in where.values()]
    return (
        f"{replies.OBJECTS_APART.cause} Here: {'; '.join(groups)} (a semicolon separates accounts). "
        f"{replies.OBJECTS_APART.remedy}"
    )


def _out(what: str, account: str) -> str:
    error = replies.OBJECT_ACCOUNT_UNAVAILABLE
    where = f"The account of {what} is out of use" if account else f"The account of {what} has left the pool"
    return f"{error.cause} {where}. {error.remedy}"


def _weight(client: str, account: str) -> int:
    """Rendezvous hashing: each client prefers each account by its own order."""
    return int.from_bytes(hashlib.blake2b(f"{client}\n{account}".encode(), digest_size=8).digest(), "big")
