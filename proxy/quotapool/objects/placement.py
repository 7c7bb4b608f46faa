"""Which accounts may serve a request: those of the objects it names, its client's home account, or any.

    names an id          the account that made it, and no other; all ids it names must be on one account
    makes or lists       the client's home account, so that a client sees one consistent set of objects
    /responses, chats    any, unless they name an id

If clients have keys, an id belongs to the client that made it. Another client's id and one that does not exist get the
same answer, made here, after the same work. `docs/objects.md` explains the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from quotapool.objects.answer_reader import AnswerReader, Fetch, Task
from quotapool.objects.layout import Owner, account_mark, owner_of
from quotapool.objects.owners import ObjectOwners
from quotapool.openai import ids, reference_marks, replies, request_ids
from quotapool.openai.forms import FormError, FormReader, boundary_of
from quotapool.openai.head import Head
from quotapool.openai.ids import CHAT, ENCRYPTED, FILE, ITEM, MODEL, OTHER, PROMPT, RESPONSE, ObjectPath, Reference
from quotapool.openai.refusal import Refusal
from quotapool.pool.configuration import Configuration
from quotapool.pool.roster import Roster
from quotapool.store.store import StoreError

_MOST_SEARCHED: Final = 10  # accounts that are tried for an unknown object
_ANYWHERE: Final = frozenset({RESPONSE, CHAT, ids.CALL, ids.LIVE})  # what is made wherever there is room
_FROM_ELSEWHERE: Final = frozenset({OTHER, ids.CALL, ids.LIVE})  # webhooks bring ids of calls that no answer named
_START: Final = 256  # bytes
_READABLE: Final = (b"{", b"[", b"\xef\xbb\xbf", b"--", b"\x1f\x8b")  # how JSON, forms and gzip begin
_SHARED: Final = frozenset({MODEL, PROMPT})  # usable by any client that knows the name
_NOT_SEARCHED: Final = frozenset(
    {ITEM, ids.AUDIO, ENCRYPTED, OTHER, *_SHARED}
)  # upstream has no path to fetch them by id alone


class ObjectRequest(msgspec.Struct, eq=False):
    """What placement must know of a request. `body` None: it streams, or there is none. `store` as in the body. `own`:
    ids that it may name wherever it is sent, since they belong to its session."""

    endpoint: str
    method: str
    target: str
    body: bytes | None
    model: str
    store: bool | None
    client: str  # "" if clients have no keys
    own: Callable[[Reference], bool] | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """`only`: the accounts that may serve it, None: any. `reader`: of the answer, None: it need not be read."""

    only: frozenset[str] | None
    reader: AnswerReader | None


def place_of(*named: Reference) -> str:
    """What was read and where, for the log: kinds and members, no ids."""
    return ", ".join(dict.fromkeys(f"{name.kind.name} in {name.param or 'path'}" for name in named))


def about(request: ObjectRequest) -> str:
    """All that a request names, as `place_of`."""
    return place_of(*_named(request, ids.object_path(request.target)))


class ObjectMissing(Refusal):
    """OpenAI's answer to an unknown id, given by the proxy."""

    def __init__(self, named: Reference) -> None:
        super().__init__(replies.OBJECT_NOT_FOUND, named.kind.missing.format(id=named.id), about=place_of(named))
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


class Objects:
    """Places requests. `fetch` tries the accounts for unknown ids, if `objects.search` is on."""

    def __init__(self, configuration: Configuration, owners: ObjectOwners, roster: Roster, fetch: Fetch) -> None:
        self.owners = owners
        self._configuration = configuration
        self._roster = roster
        self._fetch = fetch

    async def place(self, request: ObjectRequest) -> Placement:
        """Raises Refusal: ids unknown to this client or of different accounts, no usable account, no store."""
        try:
            return await self._place(request)
        except StoreError as gone:
            # On another account upstream would answer that the object does not exist, and the client would believe it.
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone

    async def _place(self, request: ObjectRequest) -> Placement:
        path = ids.object_path(request.target)
        named = _named(request, path)
        accounts = await self._accounts_of(request, named) if named else set()
        only = frozenset(accounts) or None
        if only is None and self._goes_home(request, path, named):
            only = frozenset({await self._home(request.client, makes=request.method == "POST")})
        return Placement(only, self._reader(request, path))

    def _goes_home(self, request: ObjectRequest, path: ObjectPath | None, named: Sequence[Reference]) -> bool:
        if any(not name.hint for name in named):
            return True  # unknown to us: this client's home account is the best guess
        if path is None or path.kind is MODEL:
            return False
        return request.method != "POST" or path.kind not in _ANYWHERE

    # ---- ids

    async def _accounts_of(self, request: ObjectRequest, named: Sequence[Reference]) -> set[str]:
        try:
            owners = await self.owners.find([(name.kind, name.id) for name in named], request.client)
        except StoreError:
            if all(name.is_copy for name in named):
                return set()
            raise
        mine = owner_of("", request.client).client
        where: dict[str, list[Reference]] = {}
        for name, owner in zip(named, owners, strict=True):
            # Any client that has encrypted reasoning may send it back, too.
            is_owned = bool(request.client) and not (name.hint and name.kind in {ENCRYPTED, *_SHARED})
            if owner is None or (is_owned and owner.client not in {b"", mine}):
                account = await self._unknown(request, name, foreign=owner is not None)
            else:
                account = self._account(name, owner)
            if account is not None:
                where.setdefault(account, []).append(name)
        return self._common(where)

    def _common(self, where: dict[str, list[Reference]]) -> set[str]:
        """The accounts that can serve all that is named. Raises Refusal if there is none."""
        firm = {account: [n for n in names if not n.hint] for account, names in where.items()}
        firm = {account: names for account, names in firm.items() if names}
        if len(firm) > 1:
            every = [name for names in firm.values() for name in names]
            raise Refusal(replies.OBJECTS_APART, _apart(firm), about=place_of(*every))
        if firm or not where:
            return set(firm)
        account = list(where)[-1]
        if all(name.kind is ENCRYPTED for name in where[account]):  # any account of the organisation can read it
            accounts = self._roster.pool.accounts
            organization = accounts[account].organization
            if organization:
                return {other.id for other in accounts.values() if other.organization == organization}
        return {account}

    async def _unknown(self, request: ObjectRequest, name: Reference, *, foreign: bool) -> str | None:
        """The account of an object that is unknown, as far as this client may know. Raises ObjectMissing."""
        if name.hint and not (foreign and name.private):
            return None
        if self._configuration.now.settings.objects.search and name.kind not in _NOT_SEARCHED:
            account = await self._search(request.client, name)
            if account is not None and not foreign:
                self.owners.remember([(name.kind, name.id)], account, request.client)
                return account
        if request.client and (foreign or name.kind not in _FROM_ELSEWHERE):
            raise ObjectMissing(name)
        return None

    async def _search(self, client: str, name: Reference) -> str | None:
        """Try the accounts one by one, the client's home account first."""
        path = next(path for path, kind in ids.COLLECTIONS.items() if kind is name.kind)
        usable = self._usable()
        home = await self.owners.home_account(client)
        order = sorted(usable, key=lambda account: (account != home, -_weight(client, account)))
        for account in order[:_MOST_SEARCHED]:
            status, _ = await self._fetch(account, f"/v1/{path}/{quote(name.id)}")
            if status == 200:
                return account
        return None

    def _account(self, name: Reference, owner: Owner) -> str | None:
        """The account's name. Raises Refusal if it is not usable; None if that does not matter."""
        accounts = self._roster.pool.accounts.values()
        account = next((account for account in accounts if account_mark(account.id) == owner.account), None)
        if account is None:  # one that was merged into another
            merged = (twin for old, twin in self._roster.merged.items() if account_mark(old) == owner.account)
            account = self._roster.pool.accounts.get(next(merged, ""))
        if account is not None and (account.usable or name.kind in {ENCRYPTED, *_SHARED}):
            return account.id
        if name.hint:  # its account is gone, so it counts as plain history
            return None
        self.owners.uncache(name.id)  # an operator may have deleted the record
        raise Refusal(
            replies.OBJECT_ACCOUNT_UNAVAILABLE, _out(name.id, account.id if account else ""), about=place_of(name)
        )

    # ---- home accounts

    async def _home(self, client: str, *, makes: bool) -> str:
        """The client's home account. While it is not usable, what the client makes moves it for good to another one;
        lists wait for it, since an empty list would be wrong. Raises Refusal."""
        home = await self.owners.home_account(client)
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
        await self.owners.set_home_account(client, account)
        return account

    def _usable(self) -> list[str]:
        return [account.id for account in self._roster.pool.accounts.values() if account.usable]

    # ---- answers

    def _reader(self, request: ObjectRequest, path: ObjectPath | None) -> AnswerReader | None:
        if path is None:
            return None
        task = Task.NOTHING
        if path.kind in {RESPONSE, CHAT} and request.method == "POST" and not path.id:
            keeps = request.store is True if path.kind is CHAT else True
            keeps = keeps and request.store is not False and not path.tail
            task = Task.LEARN if keeps else Task.LASTING  # encrypted reasoning and sound bind the next turn anyway
        elif request.method == "DELETE" and path.id and not path.tail:
            task = Task.FORGET
        elif request.method == "POST":
            task = Task.LEARN
        elif request.method == "GET" and not path.id and not path.tail:
            task = Task.LIST
        elif request.method == "GET" and path.tail != "content" and not path.tail.endswith("/content"):
            task = Task.LEARN
        if task is Task.NOTHING:
            return None
        return AnswerReader(self.owners, path, request.client, task, target=request.target, fetch=self._fetch)

    # ---- forms

    def checked_form(self, form: AsyncIterator[bytes], request: ObjectRequest, headers: Head) -> AsyncIterator[bytes]:
        """A streamed body, searched for ids as it passes, if clients have keys and the form may name an id. Raises
        Refusal if it cannot be searched."""
        path = ids.object_path(request.target)
        if not request.client or path is None or path.kind is FILE or path.tail == "parts":
            return form
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(replies.UNSUPPORTED_ENCODING)
        content_type = headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/"):
            return _raw(form)
        boundary = boundary_of(content_type)
        if not boundary:
            raise Refusal(replies.INVALID_FORM)
        return self._checked(form, request, FormReader(boundary))

    async def _checked(
        self, form: AsyncIterator[bytes], request: ObjectRequest, reader: FormReader
    ) -> AsyncIterator[bytes]:
        """Breaks off if the form names an object of another client, or may hide one. Raises Refusal."""
        async for piece in form:
            try:
                parts = reader.feed(piece)
            except FormError as unclear:
                message = f"{replies.INVALID_FORM.message} Here: {unclear}."
                raise Refusal(replies.INVALID_FORM, message) from unclear
            values = [(part.name, part.value.decode("utf-8", "replace")) for part in parts if part.value]
            if named := [name for name in (ids.reference_in_part(*value) for value in values) if name is not None]:
                await self._accounts_of(request, named)
            yield piece


async def _raw(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body that names nothing, such as SDP. Raises Refusal if it is something else than its Content-Type says."""
    start = b""
    async for piece in body:
        if len(start) < _START:
            start += piece[:_START]
            if start.lstrip().startswith(_READABLE):
                raise Refusal(replies.UNSUPPORTED_ENCODING)
        yield piece


def _named(request: ObjectRequest, path: ObjectPath | None) -> list[Reference]:
    named: list[Reference] = []
    if path is not None:
        if path.id:
            named.append(Reference(path.kind, path.id, hint=path.kind is MODEL and request.method != "DELETE"))
        named += ids.cursors(path)
    if request.model.startswith(MODEL.prefix):
        named.append(Reference(MODEL, request.model, "model", hint=True))
    body = request.body
    if (
        body
        and request.method in {"POST", "PUT", "PATCH"}
        and reference_marks.may_reference(request.endpoint, body, strictly=request.client != "")
    ):
        try:
            named += request_ids.references_in(body, strictly=request.client != "")
        except ValueError as unreadable:
            raise Refusal(replies.INVALID_JSON) from unreadable
    if request.own is not None:
        return [name for name in named if not request.own(name)]
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
