"""What `quotapool plan` is asked to change, read from its options. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quotapool.domain.quantities import Dimension, Limits
from quotapool.openai import tiers
from quotapool.plan import scenario as plan
from quotapool.plan.scenario import NO_MODEL, OTHERS, Scenario
from quotapool.settings import Settings
from quotapool.settings.model import Account
from quotapool.settings.transfer import with_more
from quotapool.settings.values import parse_count, parse_duration

_PRIORITIES: Final = {"high": 1, "normal": 0, "batch": -1}
_FACTOR: Final = re.compile(r"x?(\d+(?:\.\d+)?)(%?)")
_MOST_ACCOUNTS: Final = 10_000
_MOST_NAMED: Final = 5  # model groups in one sentence
_NEW: Final = "new"


class BadChange(ValueError):
    """One line for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Changes:
    """As they were written. `limits`: of added accounts."""

    add_accounts: int = 0
    tier: str | None = None
    like: str | None = None
    limits: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()
    outages: tuple[str, ...] = ()
    max_wait: str | None = None

    @property
    def words(self) -> list[str]:
        """As options, in a fixed order, for the head of a result."""
        said: list[str] = []
        if self.add_accounts:
            said.append(f"--add-accounts {self.add_accounts}")
        said += [f"--tier {self.tier}"] if self.tier else []
        said += [f"--like {self.like}"] if self.like else []
        for option, values in (
            ("limits", self.limits),
            ("traffic", self.traffic),
            ("without", self.without),
            ("client-weight", self.weights),
            ("client-priority", self.priorities),
            ("limit", self.limit),
            ("outage", self.outages),
        ):
            said += [f"--{option} {value}" for value in values]
        return [*said, f"--max-wait {self.max_wait}"] if self.max_wait is not None else said


def changed(
    today: Scenario,
    changes: Changes,
    *,
    settings: Settings,
    usual: Mapping[str, Limits],
    clients: Collection[str],
    models: Collection[str],
    moment: Callable[[str], float],
) -> tuple[Scenario, list[str]]:
    """The changed pool, and what had to be assumed. `usual`: limits by model group that most accounts have; `clients`,
    `models`: those of the demand; `moment`: Unix seconds of a time as people write it, else ValueError.

    Accounts are added first, so that other changes may name them: `new-1` and so on. Raises BadChange.
    """
    assumed: list[str] = []
    seen, known_clients, known_models = set(clients), {*clients, *today.clients}, set(models)
    scenario = today
    if changes.add_accounts or _kinds(changes):
        scenario = _with_accounts(scenario, changes, settings, usual, assumed)
    for text in changes.limit:
        with _Option("--limit", text):
            what, value = _pair(text)
            account, group, dimension = plan.parse_limit(what, scenario)
            _check_group(group, usual)
            scenario = plan.with_limit(scenario, account, group, dimension, parse_count(value))
    for name in changes.without:
        with _Option("--without", name):
            scenario = plan.without(scenario, [name])
            if not scenario.accounts:
                raise ValueError("no account would be left")
    for text in changes.outages:
        with _Option("--outage", text):
            account, since, until = _outage(text, moment)
            scenario = plan.with_outage(scenario, account, since, until)
    for text in changes.traffic:
        with _Option("--traffic", text):
            factor, client, model = _traffic(text, seen, known_models)
            scenario = plan.with_traffic(scenario, factor, client=client, model=model)
    for text in changes.weights:
        with _Option("--client-weight", text):
            name, value = _pair(text)
            scenario = plan.with_client(scenario, _client(name, known_clients), weight=parse_count(value))
    for text in changes.priorities:
        with _Option("--client-priority", text):
            name, value = _pair(text)
            if value not in _PRIORITIES:
                raise ValueError(f"{value!r} is none of {', '.join(_PRIORITIES)}")
            scenario = plan.with_client(scenario, _client(name, known_clients), priority=_PRIORITIES[value])
    if changes.max_wait is not None:
        with _Option("--max-wait", changes.max_wait):
            scenario = plan.with_max_wait(scenario, parse_duration(changes.max_wait))
    return scenario, assumed


class _Option:
    """What is wrong within it is said of this option."""

    def __init__(self, name: str, value: str) -> None:
        self._name = f"{name} {value if value.isprintable() and value.strip() else repr(value)}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OverflowError):
            raise BadChange(f"{self._name}: the number is too large") from None
        if isinstance(error, ValueError) and not isinstance(error, BadChange):
            raise BadChange(f"{self._name}: {error}") from None


def _pair(text: str) -> tuple[str, str]:
    before, _, after = (part.strip() for part in text.rpartition("="))
    if not before or not after:
        raise ValueError("is written NAME=VALUE")
    return before, after


def _client(name: str, known: Collection[str]) -> str:
    if name not in known:
        raise ValueError(f"there is no client {name!r}, neither here nor in the record")
    return name


# ---- accounts


def _with_accounts(
    scenario: Scenario, changes: Changes, settings: Settings, usual: Mapping[str, Limits], assumed: list[str]
) -> Scenario:
    count, kinds = changes.add_accounts, _kinds(changes)
    if not count:
        with _Option(*kinds[0]):
            raise ValueError("only says of what kind added accounts are; --add-accounts says how many")
    with _Option("--add-accounts", str(count)):
        if not 0 < count <= _MOST_ACCOUNTS:
            raise ValueError(f"must be between 1 and {_MOST_ACCOUNTS:,}")
        if not kinds:
            raise ValueError("needs one of --tier NAME, --like ACCOUNT and --limits rpm=5000,tpm=2M")
    if changes.like is not None:
        with _Option("--like", changes.like):
            if len(kinds) > 1:
                raise ValueError("says all of added accounts, so it goes without --tier and --limits")
            return plan.add_accounts(scenario, count, like=changes.like)
    limits = _written(changes.limits, usual)
    if changes.tier is not None:
        with _Option("--tier", changes.tier):
            limits = _of_tier(changes.tier, settings, usual, limits, assumed)
    return plan.add_accounts(scenario, count, limits=limits, name=_NEW)


def _kinds(changes: Changes) -> list[tuple[str, str]]:
    """What is said of added accounts: option and value."""
    single = ("--like", changes.like), ("--tier", changes.tier)
    return [
        *((option, value) for option, value in single if value is not None),
        *(("--limits", text) for text in changes.limits),
    ]


def _check_group(group: str, known: Collection[str]) -> None:
    if group != OTHERS and group not in known:
        raise ValueError(f"the record has no requests that use limits of {group!r}{plan.did_you_mean(group, known)}")


def _written(texts: Iterable[str], known: Collection[str]) -> dict[str, Limits]:
    """`rpm=5000,tpm=2M` for every model, `gpt-4o:rpm=…` for one of the `known` groups."""
    written: dict[str, dict[str, float]] = {}
    for text in texts:
        with _Option("--limits", text):
            group, colon, pairs = text.rpartition(":")
            if colon and not group.strip():
                raise ValueError("names no model before the colon")
            _check_group(group.strip(), known)
            values = written.setdefault(group.strip() if colon else OTHERS, {})
            for part in pairs.split(","):
                name, equals, value = (piece.strip() for piece in part.partition("="))
                if not equals:
                    raise ValueError("is written rpm=5000,tpm=2M, of one model MODEL:rpm=5000,tpm=2M")
                if name not in set(Dimension):
                    raise ValueError(f"{name!r} is none of {', '.join(Dimension)}")
                if name in values:
                    raise ValueError(f"{name} is given twice")
                values[name] = parse_count(value)
                if not 0 < values[name] <= plan.MOST_LIMIT:
                    raise ValueError(f"a limit is above 0, and at most {plan.MOST_LIMIT:,.0f}")
    found = {group: Limits(**values) for group, values in written.items()}
    others = found.get(OTHERS, Limits())
    return {group: limits.over(others) for group, limits in found.items()}


def _of_tier(
    name: str, settings: Settings, usual: Mapping[str, Limits], written: Mapping[str, Limits], assumed: list[str]
) -> dict[str, Limits]:
    """By model group; `usual` names all that matter. What is `written` counts instead."""
    if name in settings.tiers:
        probe = with_more(settings, (), {_NEW: Account(tier=name)})
        found = {group: probe.limits_for(_NEW, group) for group in (*usual, OTHERS)}
        for group, limits in usual.items():
            if found[group] != (more := found[group].over(limits)):
                found[group] = more
                assumed.append(f"tier {name} does not name every limit of {group}: the rest is what most accounts have")
    else:
        found = _of_openais(name, usual, written, settings.tiers)
        assumed.append(f"the limits of tier {name} are those {tiers.source_of(tiers.tier_named(name) or name)}")
    others = written.get(OTHERS, Limits())
    named = {group: written.get(group, others).over(limits) for group, limits in found.items()}
    return {**written, **named}


def _of_openais(
    name: str, usual: Iterable[str], written: Mapping[str, Limits], own: Iterable[str]
) -> dict[str, Limits]:
    tier = tiers.tier_named(name)
    if tier is None:
        known = ", ".join([*own, *tiers.NUMBERED, *tiers.NAMED])
        raise ValueError(f"there is no tier {name!r} here ({known}): write limits instead, --limits rpm=5000,tpm=2M")
    found: dict[str, Limits] = {}
    lacking: list[str] = []
    for group in usual:
        if (limits := tiers.limits_of(tier, group)) is not None:
            found[group] = limits
        elif group not in written and OTHERS not in written and group not in {OTHERS, NO_MODEL}:
            lacking.append(group)
    if lacking:
        more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
        raise ValueError(
            f"OpenAI's pages name no limits of {', '.join(lacking[:_MOST_NAMED])}{more} in tier {name!r}: "
            f"write them beside it, --limits {lacking[0]}:rpm=5000,tpm=2M"
        )
    return found


# ---- traffic and outages


def _traffic(text: str, clients: Collection[str], models: Collection[str]) -> tuple[float, str, str]:
    """`x2`, `150%`, `client:app=x2`, `model:gpt-4o=0.5`: factor, client, model."""
    whose, equals, factor = text.rpartition("=")
    match = _FACTOR.fullmatch(factor.strip())
    if match is None:
        raise ValueError("is written x2, 0.5 or 150%, of one client or model client:NAME=x2, model:NAME=x2")
    value = float(match[1]) / (100 if match[2] else 1)
    if not equals:
        return value, "", ""
    kind, colon, name = whose.partition(":")
    if not colon or not name or kind not in {"client", "model"}:
        raise ValueError("is written client:NAME=x2 or model:NAME=x2")
    if name not in (clients if kind == "client" else models):
        raise ValueError(f"the record has no {kind} {name!r}")
    return (value, name, "") if kind == "client" else (value, "", name)


def _outage(text: str, moment: Callable[[str], float]) -> tuple[str, float, float]:
    """`acme` for all of the time, or `acme=14:00..15:30`: account, since, until."""
    account, equals, span = text.partition("=")
    if not equals:
        return text, 0.0, float("inf")
    since, dots, until = span.partition("..")
    if not dots:
        raise ValueError("is written ACCOUNT=14:00..15:30")
    return account, moment(since), moment(until)
