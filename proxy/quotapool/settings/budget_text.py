"""Limits and budgets as they are written on a command line, made into options as the configuration has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from quotapool.settings.draft import problems_of
from quotapool.settings.rules import Budget, RateLimits

LIMITS: Final = tuple(RateLimits.model_fields)
_AMOUNTS: Final = ("usd", "tokens", "requests")
_FURTHER: Final = ("models", "mode", "warn_at")
_EXAMPLE: Final = "as in usd=50/month, or tokens=2M/day models=gpt-5* mode=soft warn_at=0.8,0.95"


def parse_budget(text: str) -> dict[str, Any]:
    """A budget's options from `usd=50/month`, `tokens=2M/day models=gpt-5* mode=soft warn_at=0.8,0.95` or
    `requests=1000/hour`; words in any order. Raises ValueError with one line for the operator."""
    options: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or name not in (*_AMOUNTS, *_FURTHER):
            raise ValueError(f"{word!r} is no part of a budget, {_EXAMPLE}")
        if name in options or (name in _AMOUNTS and "per" in options):
            raise ValueError(f"needs one of usd, tokens and requests, and each option once, {_EXAMPLE}")
        if name in _AMOUNTS:
            amount, slash, per = value.partition("/")
            if not slash:
                raise ValueError(f"{name} needs a period: minute, hour, day, week, month or total, {_EXAMPLE}")
            options |= {name: amount.removeprefix("$") if name == "usd" else amount, "per": per}
        else:
            options[name] = value if name != "warn_at" else [share for share in value.split(",") if share]
    if "per" not in options:
        raise ValueError(f"needs an amount and its period, {_EXAMPLE}")
    try:
        Budget.model_validate(options)
    except ValidationError as error:
        raise ValueError(problems_of(error, Budget)) from None
    return options


def parse_budgets(texts: Sequence[str]) -> list[dict[str, Any]]:
    """All budgets that are to be; a single "" is none. Raises ValueError, with the budget that is wrong."""
    if [text.strip() for text in texts] == [""]:
        return []
    budgets = []
    for text in texts:
        try:
            budgets.append(parse_budget(text))
        except ValueError as error:
            raise ValueError(f"--budget {text.strip()!r}: {error}") from None
    return budgets


def limits_of(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Those of `LIMITS` that were given, "" as None: it is taken back."""
    return {name: text.strip() or None for name, text in given.items() if text is not None}
