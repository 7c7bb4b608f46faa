"""Demand: what clients asked of the pool, as a record of the past has it and as a replay asks it again. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

UNSEEN: Final = -1
"""Instead of tokens: the request was refused, so nobody knows what it would have used."""


class Demand(msgspec.Struct, frozen=True, array_like=True, gc=False):  # a day has millions
    """One request. `at`: Unix seconds of its arrival; `client`: "" without client keys.

    `group`: the model group whose limits it uses; "": the model's own. `reserved`: tokens of the estimate, as it was
    reserved. `tokens`: what it really used; `took_s`: seconds of its call upstream; `pico`: picodollars, None: no price
    is known. With `tokens` UNSEEN the latter two mean nothing either, and a replay takes them from like requests.

    `priority`: 1 high, 0 normal, -1 batch. `patience_s`: how long it would wait; None: as its client's settings say.
    `only`: the account that has the stored objects that it names; "": any account will do.
    """

    at: float
    client: str
    model: str
    group: str = ""
    reserved: int = 0
    tokens: int = UNSEEN
    images: int = 0
    took_s: float = 0.0
    pico: int | None = None
    priority: int = 0
    patience_s: float | None = None
    only: str = ""

    @property
    def is_seen(self) -> bool:
        """Whether it was served, so that what it used is known."""
        return self.tokens >= 0
