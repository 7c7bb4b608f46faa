"""The network alarm: if every key fails alike, no key is removed; the pool raises one alarm, which ends by itself.

Signs are answers about our network (a country, an address list, a page that is no API, 407) to different accounts, and
connections or TLS handshakes that fail, without any proper answer of upstream in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from quotapool.domain.observer import Observer
from quotapool.ledger.budgets import Ledger, StoreUnavailable

_ENOUGH: Final = 3  # signs that raise the alarm; with fewer usable accounts, a sign from each of them
_QUIET_S: Final = 60.0  # without a sign, after which the alarm ends
_ALARM_HOLDS_S: Final = 3600  # a replica that notices later raises no second alarm
_NETWORK: Final = frozenset({"connect", "tls"})
KIND: Final = "egress"


class NetworkAlarm:
    """One process's alarm. `accounts`: how many are usable. Costs the request path one attribute look-up."""

    def __init__(self, ledger: Ledger, observer: Observer, accounts: Callable[[], int]) -> None:
        self.quiet = True  # no sign since the last proper answer
        self.trouble = ""  # the reason, while it lasts
        self._ledger = ledger
        self._observer = observer
        self._accounts = accounts
        self._refused: set[str] = set()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._announcing: set[asyncio.Task[None]] = set()

    def refused(self, account: str, reason: str) -> None:
        """Upstream, or something on the way to it, refuses our network."""
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
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_QUIET_S, self._end)
        if enough and not self.trouble:
            self.trouble = reason
            self._change(reason, on=True)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.quiet, self._failures, self._timer = True, 0, None
        self._refused.clear()
        if self.trouble:
            reason, self.trouble = self.trouble, ""
            self._change(reason, on=False)

    def _change(self, reason: str, *, on: bool) -> None:
        self._observer.network_refused(on=on, reason=reason, first=False)
        task = asyncio.get_running_loop().create_task(self._announce(reason, on=on))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def _announce(self, reason: str, *, on: bool) -> None:
        """To the other replicas; the first of them notifies the operators."""
        registry = self._ledger.registry
        try:
            if on:
                message = "every key fails alike: none is removed"
                event = {"from": "well", "to": "trouble", "reason": reason, "message": message}
                first = await registry.announce(KIND, "network", event, every_s=_ALARM_HOLDS_S)
            else:
                event = {"from": "trouble", "to": "well", "reason": reason, "message": "upstream answers again"}
                first = await registry.announce_end(KIND, "network", event)
        except StoreUnavailable:
            first = True  # better one alarm for each replica than none
        if first:
            self._observer.network_refused(on=on, reason=reason, first=True)

    async def wait_idle(self) -> None:
        """Wait until everything is announced."""
        if self._announcing:
            await asyncio.wait(self._announcing)
