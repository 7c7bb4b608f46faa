"""The options for limits and budgets that `quotapool clients` and `quotapool teams` share, and rules in words."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Final

import typer

from quotapool.cli.errors import fail
from quotapool.request.rule_rows import in_words
from quotapool.settings.budget_text import LIMITS, limits_of, parse_budgets
from quotapool.settings.rules import RuleOptions

_BUDGET: Final = (
    'A budget, as in "usd=50/month" or "tokens=2M/day models=gpt-5* mode=soft warn_at=0.8,0.95"; once for each budget. '
    'They replace those there are; "" is none.'
)


def _count(help: str) -> Any:  # noqa: A002  typer's name for it
    return Annotated[str | None, typer.Option(help=f'{help}: 60, 500k, 2M; "" is no limit.', show_default=False)]


def _text(name: str, help: str) -> Any:  # noqa: A002
    return Annotated[str | None, typer.Option(f"--{name}", help=help, show_default=False)]


_SHARED: Final[dict[str, Any]] = {
    "rpm": _count("Requests a minute"),
    "tpm": _count("Tokens a minute"),
    "rpd": _count("Requests a day"),
    "tpd": _count("Tokens a day"),
    "concurrent": _count("Requests at the same time"),
    "budget": Annotated[list[str] | None, typer.Option("--budget", help=_BUDGET, show_default=False)],
    "time_zone": _text("time-zone", 'Of the budgets\' days and months: Europe/Berlin; "" is that of spend.time_zone.'),
}
_OF_CLIENTS: Final[dict[str, Any]] = {
    "team": _text("team", 'Whose limits and budgets it shares besides its own; "" is none.'),
    **_SHARED,
    "allowed_ips": _text("allowed-ips", 'Where it may call from: "10.0.0.0/8,192.0.2.7"; "" is anywhere.'),
    "on_stream_overrun": _text("on-stream-overrun", "What becomes of a stream that uses up a budget: finish or cut."),
    "cache": _text("cache", "Whether it is served from the cache: on, off, or default, as cache.clients says."),
}


_CHOICES: Final[dict[str, bool | None]] = {"on": True, "off": False, "default": None}


def with_team_rules(run: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    """`run` with the options of limits and budgets; its argument `rules` is what they ask for, in the words of the
    configuration."""
    return _with(run, _SHARED)


def with_client_rules(run: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    """The same with a client's team, addresses, what becomes of its streams, and whether the cache serves it."""
    return _with(run, _OF_CLIENTS)


def _with(run: Callable[..., Awaitable[int]], added: Mapping[str, Any]) -> Callable[..., Awaitable[int]]:
    @wraps(run)
    async def command(*arguments: object, **options: Any) -> int:
        given = {name: options.pop(name) for name in added}
        try:
            rules = asked_rules(given)
        except ValueError as error:
            return fail(str(error))
        return await run(*arguments, rules=rules, **options)

    own = [p for p in inspect.signature(run, eval_str=True).parameters.values() if p.name != "rules"]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in added.items()
    ]
    positional = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # with_settings reads it
        [*positional, *(p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY), *more]
    )
    return command


def asked_rules(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as the configuration would have them. Raises ValueError."""
    asked: dict[str, Any] = {}
    if limits := limits_of({name: given[name] for name in LIMITS}):
        asked["limits"] = limits
    if given["budget"]:
        asked["budgets"] = parse_budgets(given["budget"])
    for name in ("team", "time_zone"):
        if given.get(name) is not None:
            asked[name] = given[name].strip() or None
    if given.get("allowed_ips") is not None:
        asked["allowed_ips"] = [part.strip() for part in given["allowed_ips"].split(",") if part.strip()]
    if given.get("on_stream_overrun") is not None:
        asked["on_stream_overrun"] = given["on_stream_overrun"]
    if (word := given.get("cache")) is not None:
        if word not in _CHOICES:
            raise ValueError("--cache is on, off or default")
        asked["cache"] = _CHOICES[word]
    return asked


def changed_words(options: Mapping[str, Any]) -> str:
    """The options of a client or team that are no defaults, in one line: its limits and budgets in words."""
    rules = RuleOptions.model_validate({name: options[name] for name in ("limits", "budgets") if name in options})
    rest = {name: value for name, value in options.items() if name not in {"limits", "budgets"}}
    parts = [f"{name.replace('_', ' ')} {cell(value)}" for name, value in rest.items()]
    return "; ".join([*parts, *map(in_words, rules.rules())]) or "all as by default"


def cell(value: object) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)
