"""Whether the pool looks for use of its accounts by others, and what it does about it (docs/outside-use.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quotapool.settings.values import Name, PositiveDuration, Section


class OutsideUseOptions(Section):
    """`accounts_shared`: accounts that others are known to use, of which nothing is said. `drain_after`: how long
    (seconds) after it was told an account that others use is taken out of service; None: never."""

    enabled: bool = True
    accounts_shared: tuple[Name, ...] = ()
    drain_after: Annotated[PositiveDuration, Field(ge=60)] | None = None
