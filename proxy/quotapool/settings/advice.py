"""Whether the pool notes what clients could do to need less of it. `docs/advice.md` says what is noted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quotapool.settings.values import PositiveDuration, Section

_DAY_S = 86_400.0


class Advice(Section):
    """`enabled`: sums and digests of requests are noted, never their content. `keep`: how long (seconds) a day's sums
    are kept; advice is about the last seven days, or as many as there are."""

    enabled: bool = False
    keep: Annotated[PositiveDuration, Field(ge=_DAY_S, le=90 * _DAY_S)] = 8 * _DAY_S
