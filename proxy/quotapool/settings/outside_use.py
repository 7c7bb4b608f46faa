"""Whether the pool looks for use of its accounts by others, and what it does about it (docs/outside-use.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quotapool.settings.values import PositiveDuration, Section


class OutsideUseOptions(Section):
    """`drain_after`: how long (seconds) after it was told an account that others use is taken out of service; None:
    never."""

    enabled: bool = True
    drain_after: Annotated[PositiveDuration, Field(ge=60)] | None = None
