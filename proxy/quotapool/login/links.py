"""One-time links: a command on the proxy's machine, or anybody who may write to the store, lets a browser log in once.

Stored: `qp:{<pool>:login}:code:<id>`, the actor's name, for a minute; `<id>` is a hash of the code.
"""

from __future__ import annotations

from typing import Final

from quotapool.domain.actor import is_name
from quotapool.login.secrets import id_of, is_secret, new_secret
from quotapool.store.store import Script, Store, text_of

VALID_S: Final = 60


class Links:
    """Those of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._prefix = f"qp:{{{pool}:login}}:code:"
        self._take = Script.of(__package__, "take")

    async def new(self, actor: str) -> str:
        """A code that lets whoever has it first log in as `actor`, within VALID_S."""
        code = new_secret()
        await self._store.guard(self._store.client.set(self._prefix + id_of(code), actor, ex=VALID_S))
        return code

    async def take(self, code: str) -> str | None:
        """Whose code it is; None: nobody's, it is used up or too old. It is used up now."""
        if not is_secret(code):
            return None
        raw = await self._store.evalsha(self._take, [self._prefix + id_of(code)], [])
        actor = text_of(raw or b"")
        return actor if is_name(actor) else None
