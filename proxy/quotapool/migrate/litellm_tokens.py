"""LiteLLM's database: virtual keys with their limits, and the teams and users that share some.

Facts from the repository BerriAI/litellm:
- schema.prisma: the tables `LiteLLM_VerificationToken`, `LiteLLM_TeamTable`, `LiteLLM_UserTable`,
  `LiteLLM_BudgetTable`; `models` is a list, empty: all; `max_budget` and `spend` are dollars of the present
  `budget_duration`, without one: in all; a `budget_id` points to limits that are used where the key has none.
- litellm/proxy/_types.py (`hash_token`): `token` is the SHA-256 (hexadecimal) of the key, its `sk-` included. That is
  what is kept here, too. Older versions stored some keys as they are; so the hash is proven on a sample first.
- `all-team-models` means those of the key's team, `all-proxy-models` every model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from quotapool.domain.periods import Per
from quotapool.migrate.database import Database, Row, rows
from quotapool.migrate.found import (
    FoundClient,
    FoundTeam,
    NotTaken,
    day_of,
    digest,
    has_ended,
    id_of,
    json_of,
    mapping_of,
    mark_of,
    period_of,
    shown,
)

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LIMITS: Final = (
    "max_budget",
    "budget_duration",
    "tpm_limit",
    "rpm_limit",
    "max_parallel_requests",
    "model_max_budget",
)
_EVERY: Final = frozenset({"all-proxy-models", "*"})
_LEFT_OUT: Final = {
    "aliases": "its own names of models",
    "config": "its own configuration",
    "permissions": "its permissions",
    "allowed_routes": "the routes that it is limited to",
    "budget_limits": "its budget windows",
}


@dataclass(frozen=True, slots=True)
class _Group:
    """A team, or a user that limits its own keys. `team`: its id here, "": it limits nothing."""

    team: str
    models: tuple[str, ...]
    suspended: str


class LiteLlmTokens:
    """`sample`: a virtual key as its client sends it, "" if none was given."""

    def __init__(self, database: Database, sample: str) -> None:
        self._database = database
        self._sample = sample
        self._teams: dict[str, _Group] = {}
        self._users: dict[str, _Group] = {}
        self._budgets: dict[str, Row] = {}

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]:
        if self._database.columns("LiteLLM_BudgetTable"):
            for row in rows(self._database, "LiteLLM_BudgetTable", (), also=_LIMITS, key="budget_id"):
                self._budgets[row["budget_id"]] = row
        for table, key, name, groups, what in (
            ("LiteLLM_TeamTable", "team_id", "team_alias", self._teams, "team"),
            ("LiteLLM_UserTable", "user_id", "user_alias", self._users, "user"),
        ):
            if not self._database.columns(table):
                continue
            for row in rows(self._database, table, (), also=(name, "spend", "models", "blocked", *_LIMITS), key=key):
                title = shown(row[name] or row[key])
                origin = f"{what} {title}"
                limits, lost = _limits_of(row)
                yield from (NotTaken("setting", origin, why) for why in lost)
                suspended = f"{what} {title} was blocked in LiteLLM" if row["blocked"] else ""
                suspended = suspended or (
                    f"the budget of {what} {title} was used up in LiteLLM" if limits is None else ""
                )
                mark = mark_of(digest(f"{what} {row[key]}"))
                team = id_of(row[name] or what, mark) if limits else ""
                groups[row[key]] = _Group(team, _models_of(row["models"]), suspended)
                if team and limits:
                    yield FoundTeam(origin, team, {"name": title, "notes": f"from LiteLLM: {what}", **limits})

    def read_clients(self, master: str) -> Iterator[FoundClient | NotTaken]:
        """None, before a key that is known in full proves how they are stored."""
        if (why := self._unproven(master)) is not None:
            count = sum(1 for _ in rows(self._database, "LiteLLM_VerificationToken", (), key="token"))
            if count:
                yield NotTaken("client", "virtual keys", why, count)
            return
        also = ("key_alias", "spend", "expires", "models", "user_id", "team_id", "blocked", "budget_id")
        for row in rows(
            self._database, "LiteLLM_VerificationToken", (), also=(*also, *_LIMITS, *_LEFT_OUT), key="token"
        ):
            origin = f"virtual key {shown(row['key_alias'])}".rstrip() + f" ({mark_of(digest(str(row['token'])))})"
            if row["token"] == digest(master):
                continue  # the master key is a client by itself
            yield from (NotTaken("setting", origin, about) for name, about in _LEFT_OUT.items() if json_of(row[name]))
            yield from self._client(row, origin)

    def _unproven(self, master: str) -> str | None:
        tokens = {digest(key) for key in (self._sample, master) if key}
        if any(self._has(token) for token in tokens):
            return None
        if self._sample:
            return "the SHA-256 of the sample is not among them: it is no virtual key of this database"
        return (
            "how they are stored is not proven: put one virtual key, as its client sends it, into the environment and "
            "name that variable with --sample-env"
        )

    def _has(self, token: str) -> bool:
        page = self._database.page("LiteLLM_VerificationToken", ["token"], "token", token[:-1])  # the next is this one
        return any(row["token"] == token for row in page)

    def _client(self, row: Row, origin: str) -> Iterator[FoundClient | NotTaken]:
        token = str(row["token"])
        if not _HASH.fullmatch(token):
            yield NotTaken("client", origin, "it is stored as it is, not as a hash: rotate it")
            return
        if has_ended(until := day_of(row["expires"])):
            yield NotTaken("client", origin, "it has expired")
            return
        budget = self._budgets.get(row["budget_id"], {})
        shared = {name: budget.get(name) for name in _LIMITS if row[name] in (None, "", "{}", {})}
        limits, lost = _limits_of({**row, **shared})
        yield from (NotTaken("setting", origin, why) for why in lost)
        team = self._teams.get(row["team_id"])
        if row["team_id"] and team is None:
            yield NotTaken("client", origin, "its team is gone")
            return
        group = team or self._users.get(row["user_id"])
        options: dict[str, Any] = {
            "name": shown(row["key_alias"]),
            "notes": "from LiteLLM: virtual key",
            **(limits or {}),
        }
        if group is not None and group.team:
            options["team"] = group.team
        if until is not None:
            options["expires_on"] = until
        models = _models_of(row["models"])
        if not models or models == ("all-team-models",):
            models = group.models if group is not None else ()
        if models and not _EVERY.intersection(models):
            options["models"] = [name.removeprefix("openai/") if "*" in name else name for name in models]
        suspended = group.suspended if group is not None else ""
        if not suspended and row["blocked"]:
            suspended = "blocked in LiteLLM"
        if not suspended and limits is None:
            suspended = "its budget was used up in LiteLLM"
        name = id_of(row["key_alias"] or "litellm", mark_of(token))
        yield FoundClient(origin, name, token, options, suspended)


def _models_of(written: object) -> tuple[str, ...]:
    """PostgreSQL gives a list."""
    found = json_of(written)
    return tuple(str(name) for name in found if name) if isinstance(found, list | tuple) else ()


def _limits_of(row: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Limits and budgets as options here, and what is lost of them. None: a budget without an end is used up."""
    lost: list[str] = []
    limits = {
        ours: float(value)
        for ours, theirs in (("rpm", "rpm_limit"), ("tpm", "tpm_limit"), ("concurrent", "max_parallel_requests"))
        if (value := row.get(theirs)) is not None and value > 0
    }
    zero = [name for name in ("rpm_limit", "tpm_limit", "max_parallel_requests") if row.get(name) == 0]
    budgets: list[dict[str, Any]] = []
    usd = row.get("max_budget")
    if usd is not None:
        per = period_of(row.get("budget_duration"))
        left = float(usd) - float(row.get("spend") or 0.0) if per is Per.TOTAL else float(usd)
        if left <= 0 or zero:
            return None, lost
        budgets.append({"usd": round(left, 6), "per": per.value})
    elif zero:
        return None, lost
    for model, about in mapping_of(row.get("model_max_budget")).items():
        amount = about.get("budget_limit", about.get("max_budget")) if isinstance(about, dict) else about
        duration = about.get("time_period", about.get("budget_duration")) if isinstance(about, dict) else None
        if isinstance(amount, int | float) and amount > 0:
            budgets.append({"usd": float(amount), "per": period_of(duration).value, "models": str(model)})
        else:
            lost.append(f"its budget for {shown(model)}, which is no amount of dollars")
    options: dict[str, Any] = {}
    if limits:
        options["limits"] = limits
    if budgets:
        options["budgets"] = budgets
    return options, lost
