"""Egress trouble: every key fails alike, so nobody is blamed, the pool raises one alarm, and it ends by itself.

Signs are answers about our network (a country, an address list, a page that is no API, 407) from different accounts,
and connections or TLS handshakes that fail, with no proper answer of upstream between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from quotapool.domain.observer import Observer
from quotapool.ledger.budgets import Ledger, StoreUnavailable

_ENOUGH: Final = 3  # signs that make a trouble; where fewer accounts are usable, all of them saying so are enough
_SILENCE_S: Final = 60.0  # after which nobody knows whether it goes on
_ALARM_HOLDS_S: Final = 3600  # a replica that notices later raises no second alarm
_NETWORK: Final = frozenset({"connect", "tls"})
KIND: Final = "egress"


class NetworkAlarm:
    """One process's view. `accounts`: how many are usable. The request path pays one attribute look-up an answer."""

    def __init__(self, ledger: Ledger, observer: Observer, accounts: Callable[[], int]) -> None:
        self.quiet = True  # no sign since the last proper answer
        self.trouble = ""  # why, while it lasts
        self._ledger = ledger
        self._observer = observer
        self._accounts = accounts
        self._refused: set[str] = set()
        self._failures = 0
        self._silence: asyncio.TimerHandle | None = None
        self._telling: set[asyncio.Task[None]] = set()

    def refused(self, account: str, reason: str) -> None:
        """Upstream, or something before it, does not serve our network."""
        self._refused.add(account)
        self._sign(reason, enough=len(self._refused) >= min(_ENOUGH, max(1, self._accounts())))

    def failed(self, reason: str) -> None:
        """No answer, for an `UpstreamFailure`'s reason."""
        if reason in _NETWORK:
            self._failures += 1
            self._sign(reason, enough=self._failures >= _ENOUGH)

    def answered(self) -> None:
        """Upstream gave an answer of its own, good or bad."""
        if not self.quiet:
            self._end()

    def _sign(self, reason: str, *, enough: bool) -> None:
        self.quiet = False
        if self._silence is not None:
            self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(_SILENCE_S, self._end)
        if enough and not self.trouble:
            self.trouble = reason
            self._observer.network_refused(on=True, reason=reason, first=False)
            self._start(self._raise(reason))

    def _end(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self.quiet, self._failures, self._silence = True, 0, None
        self._refused.clear()
        if self.trouble:
            reason, self.trouble = self.trouble, ""
            self._observer.network_refused(on=False, reason=reason, first=False)
            self._start(self._lift(reason))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _raise(self, reason: str) -> None:
        told = {
            "from": "well",
            "to": "trouble",
            "reason": reason,
            "message": "every key fails alike: nobody is removed",
        }
        try:
            first = await self._ledger.registry.announce(KIND, "network", told, every_s=_ALARM_HOLDS_S)
        except StoreUnavailable:
            first = True  # rather one alarm a replica than none
        if first:
            self._observer.network_refused(on=True, reason=reason, first=True)

    async def _lift(self, reason: str) -> None:
        try:
            told = {"from": "trouble", "to": "well", "reason": reason, "message": "upstream answers again"}
            first = await self._ledger.registry.announce_end(KIND, "network", told)
        except StoreUnavailable:
            first = True
        if first:
            self._observer.network_refused(on=False, reason=reason, first=True)

    async def settled(self) -> None:
        """What was to be told is told."""
        if self._telling:
            await asyncio.wait(self._telling)
