"""Names in the configuration that nobody has: models OpenAI does not offer, accounts without a key, clients, teams.

Only a warning each: a model may be new, and keys, clients and teams may be made while the proxy runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

from quotapool.settings.draft import Draft
from quotapool.settings.errors import Option, nearest, shown
from quotapool.settings.secret_kinds import is_openai

if TYPE_CHECKING:
    from quotapool.settings.model import Settings

_MOST: Final = 5_000  # names that are looked at
_SHOWN: Final = 20
# Those that the price data leaves out, since they are paid by the picture or the second.
_UNPRICED: Final = frozenset({"dall-e-2", "dall-e-3", "sora-2", "sora-2-pro"})
_LONG: Final = ":long"

_Kind = Literal["model", "pattern", "account", "organization", "client", "team"]
_WORDS: Final[dict[_Kind, str]] = {
    "model": "no known model has this name (if it is right, list it under metrics.models too)",
    "pattern": "no known model matches this (if one does, list it under metrics.models too)",
    "account": "no key has this account (unless one is added later)",
    "organization": "no account has this organization, so the key is not used",
    "client": "no client under clients: has this id (unless `quotapool clients add` made it)",
    "team": "no team under teams: has this name (unless `quotapool teams add` made it)",
}


@dataclass(frozen=True, slots=True)
class Named:
    """One name where it was written. `where`: for people."""

    kind: _Kind
    name: str
    where: str


def names_in(settings: Settings, draft: Draft) -> tuple[Named, ...]:
    """The names in a configuration that something else should have, at most 5,000."""
    return tuple(
        Named(kind, name, ": ".join([str(place)] * (place is not None) + [shown(option)]))
        for kind, name, option in islice(_written(settings), _MOST)
        for place in (draft.places.get(option) if option[-1] == name else draft.place_of(option),)
    )


def _written(settings: Settings) -> Iterator[tuple[_Kind, str, Option]]:
    for name, account in settings.accounts.items():
        yield "account", name, ("accounts", name)
        for model in account.models:
            yield "model", model, ("accounts", name, "models", model)
    for index, name in enumerate(settings.outside_use.accounts_shared):
        yield "account", name, ("outside_use", "accounts_shared", index)
    for model in settings.limits.models:
        yield "model", model, ("limits", "models", model)
    for group, models in settings.groups.items():
        for index, model in enumerate(models):
            yield "model", model, ("groups", group, index)
    for index, pattern in enumerate(settings.cache.models):
        yield "pattern", pattern, ("cache", "models", index)
    for section in ("long_context", "prices"):
        for model in getattr(settings, section):
            yield "model", model, (section, model)
    for index, client in enumerate(settings.clients):
        for at, model in enumerate(client.models):
            yield "model", model, ("clients", index, "models", at)
        for at, budget in enumerate(client.budgets):
            yield "model", budget.models, ("clients", index, "budgets", at, "models")
    for name, team in settings.teams.items():
        for at, budget in enumerate(team.budgets):
            yield "model", budget.models, ("teams", name, "budgets", at, "models")
    for index, target in enumerate(settings.alerts.targets):
        for at, name in enumerate(target.clients):
            yield "client", name, ("alerts", "targets", index, "clients", at)
        for at, name in enumerate(target.teams):
            yield "team", name, ("alerts", "targets", index, "teams", at)
    if len(settings.admin_keys) > 1:  # a single one is used for all accounts
        for index, key in enumerate(settings.admin_keys):
            yield "organization", key.organization, ("admin_keys", index, "organization")


def unknown_names(settings: Settings, names: Iterable[Named]) -> tuple[str, ...]:
    """A warning for each of `names` that nothing in `settings` has, one line each; at most 20 and how many more."""
    known: dict[_Kind, Callable[[str], bool]] = {
        "account": {key.account for key in settings.keys}.__contains__ if settings.keys else lambda _: True,
        "organization": {account.organization for account in settings.accounts.values()}.__contains__,
        "client": {client.id for client in settings.clients}.__contains__,
        "team": settings.teams.__contains__,
    }
    models = _Models(settings)
    known |= {"model": models.knows, "pattern": models.has_one_like}
    unknown = [one for one in names if not known[one.kind](one.name)]
    real: dict[_Kind, Callable[[], Iterable[str]]] = {
        "model": models.names,
        "pattern": models.names,
        "account": lambda: {key.account for key in settings.keys},
        "organization": lambda: filter(None, (account.organization for account in settings.accounts.values())),
        "client": lambda: (client.id for client in settings.clients),
        "team": lambda: settings.teams,
    }
    told = [
        _told(one, nearest(one.name.removesuffix(_LONG), islice(real[one.kind](), _MOST))) for one in unknown[:_SHOWN]
    ]
    if more := len(unknown) - len(told):
        told.append(f"{more:,} more names of models, accounts, clients or teams are not known")
    return tuple(told)


def _told(one: Named, hint: str | None) -> str:
    return f"{one.where}: {_WORDS[one.kind]}" + (f"; did you mean '{hint}'?" if hint else "")


class _Models:
    """Which models are known: OpenAI's by the price data, and those that the configuration itself makes known."""

    def __init__(self, settings: Settings) -> None:
        own = [key.upstream for key in settings.keys if key.upstream is not None]
        self._any = not is_openai(settings.upstream) or any(not one.models for one in own)
        mapped = {name for one in own for name in one.models}
        self._names = {*settings.metrics.models, *settings.groups, *_UNPRICED, *mapped}

    def knows(self, name: str) -> bool:
        """Patterns and fine-tuned models are what they are."""
        name = name.removesuffix(_LONG)
        if self._any or not name or name in self._names or any(one in name for one in "*?[:"):
            return True
        return _openai().find_model(name) is not None

    def has_one_like(self, pattern: str) -> bool:
        """Whether a pattern matches a name that is known, or snapshots of one; fine-tuned models are what they are."""
        first = next((at for at, one in enumerate(pattern) if one in "*?["), None)
        if first is None:
            return self.knows(pattern)
        begins = pattern[:first]
        return (
            ":" in pattern
            or self.knows(begins.rstrip("-"))
            or any(fnmatchcase(name, pattern) or begins.startswith(f"{name}-") for name in self.names())
        )

    def names(self) -> Iterator[str]:
        """The plain ones."""
        yield from self._names
        yield from (model.id for model in _openai().models if ":" not in model.id)


def _openai() -> Any:
    from genai_prices.data import providers  # 0.1 s and 20 MB: only for those who write names of models

    return next(provider for provider in providers if provider.id == "openai")
