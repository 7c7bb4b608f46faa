"""The items of a batch: reserves and holds, whose callers wait, and settles, for which nobody waits.

Objects with methods instead of closures: one of each is made for every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from quotapool.domain.quantities import Cost
from quotapool.ledger.grants import Blocked, Candidate, Granted, Hold, Refused
from quotapool.ledger.messages import bucket_key, parse_hold, parse_reserve
from quotapool.ledger.rules import Charge

_RELEASE, _CHARGE, _HOLD = 3, 5, 6  # of the script's kinds


class Item:
    """One entry of a batch. `payload`: values for MessagePack, in the script's order."""

    __slots__ = ("payload",)

    def __init__(self, payload: list[Any]) -> None:
        self.payload = payload

    def wanted(self) -> bool:
        """False: its caller has left before it was sent, so it need not be sent."""
        return True

    def done(self, result: list[Any], now: float) -> None:
        """The script's answer, of the store's second `now`."""

    def failed(self) -> None:
        """The store was given up on."""

    def keys(self, prefix: str) -> list[str]:
        """The keys that the script may touch for it, besides those of every batch."""
        kind, group, account = self.payload[:3]
        if kind == _RELEASE:
            return [f"{prefix}:claims:{group}"]
        return [f"{prefix}:next:{group}", bucket_key(prefix, account, group)]


def _keys_of_rules(prefix: str, charge: Charge | None) -> list[str]:
    if charge is None:
        return []
    return [f"{prefix}:replicas", *(f"{prefix}:rules:{subject}" for subject in charge.rules.subjects)]


class ChargeItem(Item):
    """What was used of a client's rules beside any account's budget."""

    __slots__ = ("_charge",)

    def __init__(self, charge: Charge, held_at: float, used: Sequence[float], now: float) -> None:
        """`held_at`: the store's second at which it was held; 0: it was not. `now`: the store's second."""
        rules = [] if held_at else [charge.words(now)]  # as they are before this
        super().__init__([_CHARGE, held_at, charge.settle(used, held_at), *rules])
        self._charge = charge

    def keys(self, prefix: str) -> list[str]:
        return _keys_of_rules(prefix, self._charge)


class SettleItem(Item):
    """A settle. `on_headroom` gets the account's headroom from the answer."""

    __slots__ = ("_granted", "_on_headroom")

    def __init__(
        self, payload: list[Any], granted: Granted, on_headroom: Callable[[Candidate, str, float], None]
    ) -> None:
        self.payload = payload
        self._granted = granted
        self._on_headroom = on_headroom

    def done(self, result: list[Any], now: float) -> None:  # noqa: ARG002 - as its base
        self._on_headroom(self._granted.candidate, self._granted.group, result[1])

    def keys(self, prefix: str) -> list[str]:
        return [*super().keys(prefix), *_keys_of_rules(prefix, self._granted.charge)]


class AwaitedItem(Item):
    """One whose `answer` is awaited. `fallback` answers, or raises, when the store was given up on."""

    __slots__ = ("_fallback", "answer")

    def __init__(self, payload: list[Any], answer: asyncio.Future[Any], fallback: Callable[[], Any]) -> None:
        super().__init__(payload)
        self.answer = answer
        self._fallback = fallback

    def wanted(self) -> bool:
        return not self.answer.done()

    def failed(self) -> None:
        if self.answer.done():
            return
        try:
            self.answer.set_result(self._fallback())
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
            self.answer.set_exception(error)


class HoldItem(AwaitedItem):
    """What is to be held of a client's rules beside any account's budget. `let_go` takes a hold that comes after the
    caller has left."""

    __slots__ = ("_charge", "_let_go")

    def __init__(
        self,
        charge: Charge,
        now: float,
        answer: asyncio.Future[Hold | Blocked],
        *,
        let_go: Callable[[Hold], None],
        fallback: Callable[[], Hold | Blocked],
    ) -> None:
        """`now`: the store's second."""
        super().__init__([_HOLD, charge.words(now)], answer, fallback)
        self._charge = charge
        self._let_go = let_go

    def done(self, result: list[Any], now: float) -> None:
        answer = parse_hold(result, self._charge, now)
        if not self.answer.done():
            self.answer.set_result(answer)
        elif isinstance(answer, Hold):
            self._let_go(answer)

    def keys(self, prefix: str) -> list[str]:
        return _keys_of_rules(prefix, self._charge)


class ReserveItem(AwaitedItem):
    """A reserve. `give_back` takes a grant that comes after the caller has left."""

    __slots__ = ("_candidates", "_charge", "_cost", "_give_back", "_group", "_name")

    def __init__(
        self,
        payload: list[Any],
        name: str,
        group: str,
        cost: Cost,
        candidates: Sequence[Candidate],
        charge: Charge | None,
        answer: asyncio.Future[Granted | Refused | Blocked],
        *,
        give_back: Callable[[Granted], None],
        fallback: Callable[[], Granted | Refused | Blocked],
    ) -> None:
        super().__init__(payload, answer, fallback)
        self._name = name
        self._group = group
        self._cost = cost
        self._candidates = candidates
        self._charge = charge
        self._give_back = give_back

    def done(self, result: list[Any], now: float) -> None:
        answer = parse_reserve(result, self._name, self._group, self._cost, self._candidates, self._charge, now)
        if not self.answer.done():
            self.answer.set_result(answer)
        elif isinstance(answer, Granted):
            self._give_back(answer)  # its caller has left, or was served from the share

    def keys(self, prefix: str) -> list[str]:
        buckets = [bucket_key(prefix, candidate.account, self._group) for candidate in self._candidates]
        rules = _keys_of_rules(prefix, self._charge)
        return [f"{prefix}:claims:{self._group}", f"{prefix}:next:{self._group}", *buckets, *rules]
