"""The sessions of the operators' page, in the store: every replica knows them, and each ends at its time or when it is
revoked.

Stored: `qp:{<pool>:login}:session:<id>`, JSON of `Session`, with expiry; `qp:{<pool>:login}:sessions`, a sorted set of
the ids by expiry, for lists. `<id>` is a hash of the secret that the browser has in its cookie; the secret is nowhere
else. The hash tag is not that of the budgets: logins never delay a reserve.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from quotapool.domain.actor import Role
from quotapool.login.secrets import derived, id_of
from quotapool.store.store import Store, text_of

MOST: Final = 1000  # sessions of a pool; beyond, the one that ends first is ended
MOST_OF_ONE: Final = 50  # of one actor, so that nobody can end others' by logging in
_INDEX_KEPT_S: Final = 31 * 86_400  # longer than any session lasts, since the last one began
_CSRF: Final = "quotapool csrf"


class Session(msgspec.Struct, frozen=True):
    """`started`, `ends`: Unix seconds. `proof`: what the admin token's holder knew when it was made, bound to the
    session's secret, "" if the token was not needed. `values`: what the role was earned with; `source`: which provider
    said so."""

    actor: str
    role: Role
    by: Literal["token", "link", "oidc"]
    address: str
    started: float
    ends: float
    proof: str = ""
    values: tuple[str, ...] = ()
    source: str = ""


def proof_of(secret: str, token: str) -> str:
    """That the session with this secret was made under this admin token. Useless without the session's secret: whoever
    reads the store cannot guess tokens with it."""
    return derived(secret, f"quotapool token {token}")


def csrf_of(secret: str) -> str:
    """What the session's page has to send with each change. A page that cannot read our answers does not know it."""
    return derived(secret, _CSRF)


class Sessions:
    """Those of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._one = f"qp:{{{pool}:login}}:session:"
        self._index = f"qp:{{{pool}:login}}:sessions"

    async def start(self, session: Session, secret: str) -> str:
        """Keep a session whose browser gets `secret`; its id."""
        client, name = self._store.client, id_of(secret)
        lives_s = max(1, math.ceil(session.ends - session.started))
        written = msgspec.json.encode(session)
        await self._store.guard(client.set(self._one + name, written, ex=lives_s))
        await self._store.guard(client.zadd(self._index, {name: session.ends}))
        await self._make_room(session, name)
        await self._store.guard(client.expire(self._index, _INDEX_KEPT_S))
        return name

    async def _make_room(self, new: Session, name: str) -> None:
        rows = [row for row in await self.all(new.started) if row[0] != name]
        own = [other for other, session in rows if session.actor == new.actor]
        gone = own[: max(0, len(own) - MOST_OF_ONE + 1)]
        left = [other for other, _ in rows if other not in gone]
        for other in (*gone, *left[: max(0, len(left) - MOST + 1)]):
            await self.end(other)

    async def find(self, secret: str, now: float) -> Session | None:
        """The session of this secret, if it has not ended at `now` (Unix seconds)."""
        raw = await self._store.guard(self._store.client.get(self._one + id_of(secret)))
        session = _decoded(raw)
        return session if session is not None and session.ends > now else None

    async def all(self, now: float) -> list[tuple[str, Session]]:
        """(id, session) of those that have not ended; what ends first is first."""
        client = self._store.client
        await self._store.guard(client.zremrangebyscore(self._index, "-inf", now))
        members: Any = await self._store.guard(client.zrange(self._index, 0, 2 * MOST))
        names = [text_of(name) for name in members]
        if not names:
            return []
        raws = await self._store.guard(client.mget([self._one + name for name in names]))
        found = [(name, session) for name, raw in zip(names, raws, strict=True) if (session := _decoded(raw))]
        return [(name, session) for name, session in found if session.ends > now]

    async def end(self, name: str) -> bool:
        """End the session of this id; False if there was none."""
        gone = await self._store.guard(self._store.client.delete(self._one + name))
        await self._store.guard(self._store.client.zrem(self._index, name))
        return bool(gone)


def _decoded(raw: bytes | str | None) -> Session | None:
    """None: there is none, or a newer version wrote it in another form."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Session)
    except msgspec.DecodeError:
        return None
