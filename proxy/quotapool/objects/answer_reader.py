"""Reads the answers to requests about stored objects: what was made, what a list may show, what was deleted."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
import structlog

from quotapool.objects.layout import Owner, owner_of
from quotapool.objects.owners import ObjectOwners, Ref
from quotapool.openai import answer_ids, ids, replies
from quotapool.openai.ids import ENCRYPTED, OTHER, ObjectPath
from quotapool.openai.jsontext import set_member
from quotapool.openai.refusal import Refusal
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_MOST_PAGES: Final = 20  # of other clients' objects that are skipped to find the client's own
_LASTING: Final = frozenset({ENCRYPTED, ids.AUDIO, ids.CONTAINER, ids.PROMPT})  # exist even if the answer is not stored
_LASTING_MARKS: Final = (b'"encrypted_content"', b'"container_id"', b'"pmpt_', b'"audio"')
_SOUND: Final = re.compile(rb'"audio": ?\{"id": ?"([A-Za-z0-9_-]{1,512})"')
_LONGEST_SOUND: Final = ids.LONGEST_ID + 32
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Task(enum.Enum):
    """What an answer is read for. LASTING: only for what lasts although the answer itself is not stored."""

    NOTHING = "nothing"
    LEARN = "learn"
    LIST = "list"
    FORGET = "forget"
    LASTING = "lasting"


class _Identified(msgspec.Struct, gc=False):
    id: Any = None


_identified: Final = msgspec.json.Decoder(_Identified)


Fetch = Callable[[str, str], Awaitable[tuple[int, bytes]]]
"""`await fetch(account, target)`: status and body of a GET with a key of that account; (0, b"") without an answer."""


class AnswerReader:
    """Reads one answer. `account`, the one that answered, is set before the answer is relayed."""

    def __init__(
        self, owners: ObjectOwners, path: ObjectPath, client: str, task: Task, *, target: str, fetch: Fetch
    ) -> None:
        self._owners = owners
        self._path = path
        self._client = client
        self._target = target
        self._fetch = fetch
        self.task = task
        self.account = ""
        self.reads_chunks = path.kind is ids.CHAT  # only an early event names the id of a chat's sound
        self._writes: list[asyncio.Task[None]] = []
        self._unread = b""  # the last bytes of a stream: an id may be cut in two

    @property
    def shows_others(self) -> bool:
        """Whether the answer must not pass unchanged, since it may show what other clients made."""
        return self.task is Task.LIST and self._client != ""

    async def answered(self, body: bytes) -> bytes:
        """Reads a whole JSON answer before the client gets it; what to send to the client. Raises Refusal."""
        if self.task is Task.FORGET:
            await self._forget()
        elif self.shows_others:
            try:
                own = await self._own_page(body)
                await self.written()
                return own
            except StoreError as gone:  # without the owners nothing may be shown
                raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        else:
            self._learn(body)
            await self.written()
        return body

    def began(self, object_id: str) -> None:
        """A stream has named its object."""
        if self.task is Task.LEARN:
            self._remember([(ids.kind_of(object_id) or self._path.kind, object_id)])

    def passes(self, chunk: bytes) -> None:
        """Bytes of a stream, if `reads_chunks`."""
        text = self._unread + chunk
        self._remember([(ids.AUDIO, found.decode()) for found in _SOUND.findall(text)])
        self._unread = text[-_LONGEST_SOUND:]

    def located(self, location: str) -> None:
        """An answer names its object in its Location header, as realtime calls do."""
        if self.task is Task.LEARN:
            self._remember([(self._path.kind, location.rstrip("/").rpartition("/")[2])])

    def ends(self, event: bytes) -> None:
        """A stream's last event, which contains the whole object."""
        self._learn(event)

    async def written(self) -> None:
        """Wait until what was learned is in the store, or left for later."""
        while self._writes:
            await asyncio.shield(self._writes.pop())

    def _learn(self, body: bytes) -> None:
        if self.task is Task.LASTING and not any(mark in body for mark in _LASTING_MARKS):
            return
        known = answer_ids.made_by(body, self._path.kind)
        if self.task is Task.LASTING:
            known = [ref for ref in known if ref[0] in _LASTING]
        self._remember(known)

    def _learn_references(self, body: bytes) -> None:
        """Learn what the client's own objects in a list refer to, such as a batch's output; not of unknown kinds."""
        if self._path.kind is not OTHER:
            self._learn(body)

    def _remember(self, refs: list[Ref]) -> None:
        task = self._owners.remember(refs, self.account, self._client)
        if task is not None:
            self._writes.append(task)

    async def _forget(self) -> None:
        try:
            await self._owners.forget((self._path.kind, self._path.id))
        except StoreError as gone:  # upstream has deleted it: an id that leads to nothing does no harm
            _log.debug("the record of a deleted object is not deleted", reason=str(gone))

    async def _own_page(self, body: bytes) -> bytes:
        """The first page from here on with objects of the client: SDKs take an empty page for the last one."""
        for _ in range(_MOST_PAGES):
            own, last = await self._own_of(body)
            if not last:
                return own
            path, _, query = self._target.partition("?")
            pairs = [(name, value) for name, value in parse_qsl(query) if name != "after"]
            status, body = await self._fetch(self.account, f"{path}?{urlencode([*pairs, ('after', last)])}")
            if status != 200:
                return own
        return own

    async def _own_of(self, body: bytes) -> tuple[bytes, str]:
        """The list without what others made; otherwise unchanged, but for its first and last ids. And the id after
        which the next page begins, if this one shows nothing and is not the last. Raises StoreError."""
        try:
            members = _members.decode(body)
            elements = _elements.decode(members["data"])
            names = [_identified.decode(element).id for element in elements]
        except KeyError:
            return body, ""
        except ValueError as unreadable:
            if self._path.kind is OTHER:
                return body, ""
            raise Refusal(replies.UPSTREAM_PROTOCOL_ERROR) from unreadable
        refs = [(ids.kind_of(name) or self._path.kind, name) if type(name) is str else None for name in names]
        owners = await self._owners.find([ref for ref in refs if ref is not None], self._client)
        of = dict(zip([ref for ref in refs if ref is not None], owners, strict=True))
        mine = owner_of("", self._client).client
        kept = [n for n, ref in enumerate(refs) if ref is None or _is_shown(of[ref], mine, strict=ref[0] is not OTHER)]
        if len(kept) == len(names):
            self._learn_references(body)
            return body, ""
        data = b"[" + b", ".join(bytes(elements[n]) for n in kept) + b"]"
        body = body.replace(bytes(members["data"]), data, 1)
        for name, at in (("first_id", 0), ("last_id", -1)):
            if name in members:
                body = set_member(body, name, msgspec.json.encode(names[kept[at]] if kept else None))
        self._learn_references(body)
        goes_on = not kept and bytes(members.get("has_more", b"")) == b"true" and type(names[-1]) is str
        return body, names[-1] if goes_on else ""


def _is_shown(owner: Owner | None, mine: bytes, *, strict: bool) -> bool:
    if owner is None:
        return not strict
    return owner.client in {b"", mine}
