"""Options about money: how spend is shown and limited, and prices that override the price data's."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from quotapool.settings.values import Section, Token, parse_count


def parse_usd(value: object) -> float:
    """An amount in dollars: 50, `$50`, `2k`."""
    try:
        return parse_count(value.strip().removeprefix("$") if isinstance(value, str) else value)
    except ValueError:
        raise ValueError("must be an amount in dollars, such as 50 or 2k") from None


Usd = Annotated[float, BeforeValidator(parse_usd), Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


def _zone(name: str) -> str:
    if name != "UTC":  # which needs no data from the system
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # not found, not a name at all, a directory of names
            raise ValueError("is not a time zone of this system; examples are UTC and Europe/Berlin") from None
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]


class Spend(Section):
    """`time_zone` is for display: days are kept in UTC. `hour_alert_factor`: times the usual hour's spend."""

    time_zone: TimeZone = "UTC"
    daily_limit_usd: Usd | None = None
    hour_alert_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 5.0
    stop_at: Share | None = None


class CreditGrant(Section):
    """Credit of an account, usable from the beginning of the first day until that of the last (UTC)."""

    usd: Usd
    granted_on: date | None = None
    expires_on: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> CreditGrant:
        if self.granted_on and self.expires_on and self.granted_on >= self.expires_on:
            raise ValueError("expires_on must be later than granted_on")
        return self


class Funds(Section):
    """What an account can spend. `stop_at`, a share of its credit and monthly limit, overrides `spend.stop_at`."""

    grants: tuple[CreditGrant, ...] = ()
    monthly_limit_usd: Usd | None = None
    stop_at: Share | None = None
    session_key: Token | None = None


class Rates(Section):
    """USD per million tokens; `second`, `character` and `request` in USD each. Absent: as in the price data."""

    input: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    output: Rate | None = None
    audio_input: Rate | None = None
    cached_audio_input: Rate | None = None
    audio_output: Rate | None = None
    image_input: Rate | None = None
    cached_image_input: Rate | None = None
    image_output: Rate | None = None
    second: Rate | None = None
    character: Rate | None = None
    request: Rate | None = None


class ModelPrices(Rates):
    """One model's own prices, at any length of prompt: its standard tier's, and those of other service tiers."""

    tiers: dict[Literal["flex", "priority", "fast", "batch"], Rates] = Field(default_factory=dict)
