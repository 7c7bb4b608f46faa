"""What a client or a team may use: limits by the minute and day, requests at the same time, and budgets."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.domain.wallet import PICO
from quotapool.settings.money import TimeZone, Usd
from quotapool.settings.values import ModelName, Section, parse_count

_MOST_BUDGETS: Final = 32
_LONGEST_TEXT: Final = 1_000
_MOST: Final = 1e15  # tokens or requests; and a thousandth of it in dollars, which is 1e24 picodollars

Text = Annotated[str, Field(max_length=_LONGEST_TEXT)]


Count = Annotated[float, BeforeValidator(parse_count), Field(gt=0, le=_MOST)]


class RateLimits(Section):
    """Requests and tokens per minute and day, which refill by the second, and requests at the same time."""

    rpm: Count | None = None
    tpm: Count | None = None
    rpd: Count | None = None
    tpd: Count | None = None
    concurrent: Count | None = None

    def rules(self) -> list[Rule]:
        """Those that are set."""
        minute, day = 60.0, 86_400.0
        kinds: tuple[tuple[str, float | None, Kind, Measure, float], ...] = (
            ("rpm", self.rpm, Kind.RATE, Measure.REQUESTS, minute),
            ("tpm", self.tpm, Kind.RATE, Measure.TOKENS, minute),
            ("rpd", self.rpd, Kind.RATE, Measure.REQUESTS, day),
            ("tpd", self.tpd, Kind.RATE, Measure.TOKENS, day),
            ("concurrent", self.concurrent, Kind.SLOTS, Measure.CONCURRENT, 0.0),
        )
        return [
            Rule(name, kind, measure, limit, period_s=period_s)
            for name, limit, kind, measure, period_s in kinds
            if limit is not None
        ]


class Budget(Section):
    """So many dollars, tokens or requests in each calendar period. `models`: a pattern (fnmatch); "": all models.

    `mode`: refuse what goes beyond it, serve it and warn, or serve it and only note it. `warn_at`: shares of it.
    """

    usd: Annotated[Usd, Field(le=_MOST / 1000)] | None = None
    tokens: Count | None = None
    requests: Count | None = None
    per: Literal["minute", "hour", "day", "week", "month", "total"]
    models: ModelName | Literal[""] = ""
    mode: Literal["hard", "soft", "shadow"] = "hard"
    warn_at: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=8)] = (0.8, 0.95)

    @model_validator(mode="after")
    def _has_one_amount(self) -> Budget:
        if sum(amount is not None for amount in (self.usd, self.tokens, self.requests)) != 1:
            raise ValueError("needs one of usd, tokens and requests")
        return self

    @property
    def rule(self) -> Rule:
        measure = (
            Measure.USD if self.usd is not None else Measure.TOKENS if self.tokens is not None else Measure.REQUESTS
        )
        limit = self.usd * PICO if self.usd is not None else self.tokens or self.requests or 0.0
        name = f"{measure.value}/{self.per}" + (f"/{self.models}" if self.models else "")
        mode, per = Mode(self.mode), Per(self.per)
        return Rule(name, Kind.BUDGET, measure, limit, mode, 0.0, per, self.models, tuple(sorted(self.warn_at)))


class RuleOptions(Section):
    """What clients and teams have alike. `time_zone`: of the budgets' periods; None: that of `spend`."""

    name: Text = ""
    limits: RateLimits = RateLimits()
    budgets: Annotated[tuple[Budget, ...], Field(max_length=_MOST_BUDGETS)] = ()
    time_zone: TimeZone | None = None
    notes: Text = ""

    @model_validator(mode="after")
    def _budgets_differ(self) -> RuleOptions:
        seen: set[str] = set()
        for budget in self.budgets:
            if (name := budget.rule.id) in seen:
                raise ValueError(f"budgets: there are two of {name}; one is enough, and warn_at gives warnings before")
            seen.add(name)
        return self

    @property
    def limits_anything(self) -> bool:
        """Whether there is any rule."""
        return bool(self.budgets) or self.limits != RateLimits()

    def rules(self) -> tuple[Rule, ...]:
        """Limits first, then budgets in their order."""
        return (*self.limits.rules(), *(budget.rule for budget in self.budgets))
