"""What goes into a batch: reserves, whose callers wait, and corrections, for which nobody waits.

Objects with methods instead of closures: one of each is made for every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from quotapool.domain.quantities import Cost
from quotapool.ledger.grants import Candidate, Granted, Refused
from quotapool.ledger.messages import understood


class Item:
    """One entry of a batch. `payload`: what MessagePack knows, in the script's order."""

    __slots__ = ("payload",)

    def __init__(self, payload: list[Any]) -> None:
        self.payload = payload

    def wanted(self) -> bool:
        """False: whoever asked has left before it was sent, so it need not be."""
        return True

    def done(self, result: list[Any]) -> None:
        """The script's answer."""

    def failed(self) -> None:
        """The store was given up on."""


class Correction(Item):
    """A settle. The answer tells the account's head-room."""

    __slots__ = ("_granted", "_heard")

    def __init__(self, payload: list[Any], granted: Granted, heard: Callable[[Candidate, str, float], None]) -> None:
        self.payload = payload
        self._granted = granted
        self._heard = heard

    def done(self, result: list[Any]) -> None:
        self._heard(self._granted.candidate, self._granted.group, result[1])


class Question(Item):
    """A reserve. `answer` is awaited; `given_back` gets a grant that comes after the caller has left.

    `otherwise` answers, or raises, when the store was given up on.
    """

    __slots__ = ("_candidates", "_cost", "_given_back", "_group", "_name", "_otherwise", "answer")

    def __init__(
        self,
        payload: list[Any],
        name: str,
        group: str,
        cost: Cost,
        candidates: Sequence[Candidate],
        *,
        given_back: Callable[[Granted], None],
        otherwise: Callable[[], Granted | Refused],
    ) -> None:
        self.payload = payload
        self.answer: asyncio.Future[Granted | Refused] = asyncio.get_running_loop().create_future()
        self._name = name
        self._group = group
        self._cost = cost
        self._candidates = candidates
        self._given_back = given_back
        self._otherwise = otherwise

    def wanted(self) -> bool:
        return not self.answer.done()

    def done(self, result: list[Any]) -> None:
        answer = understood(result, self._name, self._group, self._cost, self._candidates)
        if not self.answer.done():
            self.answer.set_result(answer)
        elif isinstance(answer, Granted):
            self._given_back(answer)  # its caller has left, or was served another way

    def failed(self) -> None:
        if self.answer.done():
            return
        try:
            self.answer.set_result(self._otherwise())
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is to hear it
            self.answer.set_exception(error)
