"""The sessions of one process that live: watched once a second, and ended with their keys or with the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from quotapool.domain.states import State
from quotapool.session.relay import SessionRelay
from quotapool.session.usage import SessionUsage
from quotapool.websocket.frames import POLICY_VIOLATION, SERVICE_RESTART

_LOOK_S: Final = 1.0
_RESTARTING: Final = "the proxy is restarting; connect again"
_LAST_WORDS_S: Final = 5.0  # a response under way may take so much longer when its key has died


@dataclass(slots=True, eq=False)
class _Open:
    """A session that lives. `doomed`: since when its key is out of the pool."""

    live: SessionRelay
    meter: SessionUsage
    doomed: float | None = None


class OpenSessions:
    """Those that are held now. `state_of` tells a key's state, REMOVED for one that is no longer known; `counted` hears
    of each session that begins (account, 1) and ends (account, -1)."""

    def __init__(self, state_of: Callable[[str], State], counted: Callable[[str, int], None]) -> None:
        self._state_of = state_of
        self._counted = counted
        self._open: set[_Open] = set()
        self._watching: asyncio.Task[None] | None = None
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._ending = False

    def __len__(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"<OpenSessions {len(self._open)}>"

    @contextlib.contextmanager
    def hold(self, live: SessionRelay, meter: SessionUsage) -> Iterator[None]:
        """Watch over a session for as long as the block takes."""
        one = _Open(live, meter)
        self._counted(meter.account, 1)
        self._open.add(one)
        self._none_open.clear()
        if self._ending:  # its handshake was under way
            live.leave(SERVICE_RESTART, _RESTARTING)
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._keep_watch())
        try:
            yield
        finally:
            self._counted(meter.account, -1)
            self._open.discard(one)
            if not self._open:
                self._none_open.set()

    async def _keep_watch(self) -> None:
        """While there are sessions: is the other side alive, and is the key?"""
        while self._open:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            for one in list(self._open):
                one.live.look(now)
                if (rule := one.meter.rules.used_up) != "":
                    one.live.leave(POLICY_VIOLATION, f"the client's budget {rule} is used up")
                self._end_with_its_key(one, now)

    def _end_with_its_key(self, one: _Open, now: float) -> None:
        """A session whose key has left the pool ends between two responses, or soon after. A draining key is waited
        for."""
        state = self._state_of(one.meter.key)
        if state in {State.ACTIVE, State.SUSPECT} or (one.meter.can_move and not one.meter.busy):
            one.doomed = None  # it may go on; or its next response finds another account, or is told why it cannot
            return
        one.doomed = now if one.doomed is None else one.doomed
        if not one.meter.busy or (state is not State.DRAINING and now - one.doomed > _LAST_WORDS_S):
            one.live.leave(SERVICE_RESTART, "the upstream key of this session has left the pool; connect again")

    async def end(self) -> None:
        """Ask all to go, and those that still come, so that SDKs connect again, elsewhere or after the restart; returns
        when the last one has."""
        self._ending = True
        for one in list(self._open):
            one.live.leave(SERVICE_RESTART, _RESTARTING)
        await self._none_open.wait()

    def forget(self) -> None:
        """Stop watching, even if sessions are still open."""
        if self._watching is not None:
            self._watching.cancel()
