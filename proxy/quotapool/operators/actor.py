"""Who does something to the pool, as the records of changes name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator"]


@dataclass(frozen=True, slots=True)
class Actor:
    """`name`: of a user, or `admin token`. `by`: how it is known. `address`: the IP address of the call, "" if it came
    from the command line."""

    name: str
    role: Role
    by: Literal["token", "link", "oidc", "header", "command"]
    address: str = ""
