"""one-api: channels with upstream keys, users with a quota, and their tokens.

Facts from the repository songquanpeng/one-api:
- model/channel.go: the table `channels`; status 1 is enabled, 2 and 3 are disabled by hand and by the program; `models`
  are separated by commas; `model_mapping` is a JSON object.
- relay/channeltype/define.go and url.go: the types of channels, and the URL of each that has none of its own.
- model/token.go: the table `tokens`; status 1 is enabled, 2 disabled, 3 expired, 4 used up; `expired_time` is in Unix
  seconds, -1: never; `models` and `subnet` limit a token.
- middleware/auth.go: `sk-` is cut off what a client sends, and what follows is looked up in `tokens.key`.
- model/user.go: the table `users`; status 1 is enabled; a request takes from the token's quota and from its user's.
- common/config: 500,000 units of quota are a dollar, unless the table `options` has another QuotaPerUnit.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from quotapool.migrate.database import Database, Row, rows
from quotapool.migrate.found import (
    FoundClient,
    FoundKey,
    FoundTeam,
    NotTaken,
    SourceError,
    day_of,
    digest,
    has_ended,
    id_of,
    mapping_of,
    mark_of,
    names_of,
    served,
    shown,
    words,
)

ENABLED: Final = 1
_EXPIRED: Final = 3
_AZURE: Final = 3
_PER_USD: Final = 500_000.0
_SHORTEST: Final = 16
_ENDLESS_USD: Final = 1e9


@dataclass(frozen=True, slots=True)
class _User:
    """`team`: that of its tokens, "": it has no limit of its own. `suspended`: why its tokens are out."""

    name: str
    group: str
    team: str
    suspended: str


class OneApi:
    """A database of one-api. `only`: names of groups of channels; none: all."""

    title: ClassVar = "one-api"
    # Channels that speak OpenAI's API: the URL of each, without /v1, if a channel names none; "": it has to.
    urls: ClassVar[Mapping[int, str]] = {
        1: "https://api.openai.com",
        _AZURE: "",
        4: "https://api.closeai-proxy.xyz",
        5: "https://api.openai-sb.com",
        6: "https://api.openaimax.com",
        7: "https://api.ohmygpt.com",
        8: "",
        10: "https://api.aiproxy.io",
        12: "https://api.api2gpt.com",
        13: "https://api.aigc2d.com",
        20: "https://openrouter.ai/api",
        25: "https://api.moonshot.cn",
        28: "https://api.mistral.ai",
        29: "https://api.groq.com/openai",
        31: "https://api.lingyiwanwu.com",
        32: "https://api.stepfun.com",
        36: "https://api.deepseek.com",
        39: "https://api.together.xyz",
        44: "https://api.siliconflow.cn",
        50: "",
    }
    # By column: what it did to requests, which nothing here does.
    settings: ClassVar[Mapping[str, str]] = {"system_prompt": "a system prompt that it put before every request's"}
    channel_columns: ClassVar[tuple[str, ...]] = ()
    token_columns: ClassVar[tuple[str, ...]] = ("models", "subnet")

    def __init__(self, database: Database, only: frozenset[str]) -> None:
        self._database = database
        self._only = only
        self._users: dict[Any, _User] = {}
        self._per_usd = _PER_USD

    # ---- channels

    def read_keys(self) -> Iterator[FoundKey | NotTaken]:
        known = ("name", "status", "weight", "base_url", "models", "group", "model_mapping", "priority")
        also = (*known, *self.channel_columns, *self.settings)
        for row in rows(self._database, "channels", ("type", "key"), also=also, key="id"):
            groups = tuple(words(row["group"])) or ("default",)
            if self._only and self._only.isdisjoint(groups):
                continue
            origin = f"channel {row['id']} {shown(row['name'])}".rstrip()
            secrets = self.secrets_of(row)
            if not secrets:
                yield NotTaken("key", origin, "it has no key")
                continue
            common = self._common(row, groups, origin)
            if isinstance(common, str):
                yield NotTaken("key", origin, common, len(secrets))
                continue
            for column, about in self.settings.items():
                if str(row[column] or "").strip() not in {"", "{}", "null", "[]"}:
                    yield NotTaken("setting", origin, about)
            if row["priority"]:
                yield NotTaken("setting", origin, "its priority: all keys that have a model serve it, by weight")
            for secret, enabled in secrets:
                yield FoundKey(secret=secret, disabled=not (enabled and row["status"] == ENABLED), **common)

    def secrets_of(self, row: Row) -> list[tuple[str, bool]]:
        """(secret, whether it is enabled within its channel)."""
        return [(secret, True) for secret in words(row["key"], "\n")]

    def account_of(self, row: Row) -> dict[str, Any]:
        """Settings of the accounts of a channel's keys. A weight of 0 is the programs' default, so it is 1 here."""
        weight = row["weight"]
        return {"weight": float(weight)} if isinstance(weight, int | float) and weight > 0 else {}

    def unusable_url(self, row: Row, url: str) -> str | None:
        """Why this URL cannot be an upstream; None: it can."""
        return None if url else f"it names no URL, and channels of type {row['type']} have none by themselves"

    def _common(self, row: Row, groups: tuple[str, ...], origin: str) -> dict[str, Any] | str:
        """What the keys of a channel have in common, or why none is taken."""
        if row["type"] not in self.urls:
            return f"channels of type {row['type']} do not speak OpenAI's API"
        url = str(row["base_url"] or "").strip().rstrip("/") or self.urls[row["type"]]
        if (why := self.unusable_url(row, url)) is not None:
            return why
        header = "bearer"
        if row["type"] == _AZURE:
            url, header = f"{url.removesuffix('/openai')}/openai/v1", "api-key"
        models = served(words(row["models"]), names_of(row["model_mapping"]))
        if not models:
            return "it has no models"
        return {
            "origin": origin,
            "url": url,
            "header": header,
            "models": models,
            "groups": groups,
            "account": self.account_of(row),
        }

    # ---- users and tokens

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]:
        """Each user whose quota limits its tokens."""
        self._per_usd = self._quota_per_usd()
        ratios = self._ratios()
        also = ("username", "status", "quota", "group", "deleted_at")
        for row in rows(self._database, "users", (), also=also, key="id"):
            name = shown(row["username"]) or f"user {row['id']}"
            usd = _usd(row["quota"], self._per_usd)
            suspended = ""
            if row["status"] not in {ENABLED, None} or row["deleted_at"] is not None:
                suspended = f"user {name} was disabled in {self.title}"
            elif usd is not None and usd <= 0:
                suspended = f"the quota of user {name} was used up in {self.title}"
            team = id_of(row["username"], f"{self.title}-{row['id']}") if not suspended and usd is not None else ""
            self._users[row["id"]] = _User(name, str(row["group"] or "default"), team, suspended)
            if team:
                budget = {"usd": usd, "per": "total"}
                notes = f"from {self.title}: what was left of the quota of user {row['id']}"
                yield FoundTeam(f"user {name}", team, {"name": name, "budgets": [budget], "notes": notes})
        for group, ratio in ratios.items():
            yield NotTaken(
                "setting", f"group {shown(group)}", f"its price ratio {ratio:g}; spend here is at list prices"
            )

    def read_clients(self) -> Iterator[FoundClient | NotTaken]:
        """Tokens whose users are gone are of no use in these programs, and are not taken."""
        needed = ("key", "user_id")
        also = ("name", "status", "expired_time", "remain_quota", "unlimited_quota", "deleted_at", *self.token_columns)
        for row in rows(self._database, "tokens", needed, also=also, key="id"):
            origin = f"token {row['id']} {shown(row['name'])}".rstrip()
            if row["deleted_at"] is not None:
                continue
            client = self._client(row, origin)
            yield client if isinstance(client, FoundClient) else NotTaken("client", origin, client)

    def _client(self, row: Row, origin: str) -> FoundClient | str:
        """The client that a token becomes, or why not."""
        user = self._users.get(row["user_id"])
        if user is None:
            return "its user is gone"
        key = str(row["key"] or "").strip()
        if len(key) < _SHORTEST:
            return f"its key has fewer than {_SHORTEST} characters, and could be guessed"
        until = day_of(row["expired_time"]) if row["expired_time"] not in {-1, 0, None} else None
        if row["status"] == _EXPIRED or has_ended(until):
            return "it has expired"
        try:
            networks = [str(ipaddress.ip_network(text, strict=False)) for text in self.networks_of(row)]
        except ValueError:
            return "an address that it is limited to cannot be read"
        usd = None if row["unlimited_quota"] else _usd(row["remain_quota"], self._per_usd)
        suspended = user.suspended
        if not suspended and row["status"] not in {ENABLED, None}:
            suspended = f"disabled in {self.title}"
        if not suspended and usd is not None and usd <= 0:
            suspended = f"its quota was used up in {self.title}"
        options: dict[str, Any] = {
            "name": shown(row["name"]),
            "notes": f"from {self.title}: token {row['id']} of user {user.name}",
        }
        if user.team:
            options["team"] = user.team
        if usd is not None and usd > 0:
            options["budgets"] = [{"usd": usd, "per": "total"}]
        if until is not None:
            options["expires_on"] = until
        if networks:
            options["allowed_ips"] = networks
        if (models := self.models_of(row)) is not None:
            if not models:
                return "it may use no model"
            options["models"] = models
        hashed = digest(key if key.startswith("sk-") else f"sk-{key}")
        groups = self.groups_of(row, user.group)
        return FoundClient(origin, id_of(row["name"], mark_of(hashed)), hashed, options, suspended, groups)

    def models_of(self, row: Row) -> list[str] | None:
        """What a token is limited to; None: it is not."""
        return words(row["models"]) or None

    def networks_of(self, row: Row) -> list[str]:
        return words(row["subnet"], ",\n ")

    def groups_of(self, row: Row, of_user: str) -> tuple[str, ...] | None:  # noqa: ARG002 - a token may have its own
        return (of_user,)

    def _quota_per_usd(self) -> float:
        for row in self._options():
            if row["key"] == "QuotaPerUnit":
                try:
                    value = float(row["value"])
                except (TypeError, ValueError):
                    value = 0.0
                if not 0 < value < 1e15:
                    raise SourceError("the table options has a QuotaPerUnit that is no number above 0")
                return value
        return _PER_USD

    def _ratios(self) -> dict[str, float]:
        """Groups whose price differs."""
        found = (mapping_of(row["value"]) for row in self._options() if row["key"] == "GroupRatio")
        pairs = (pair for ratios in found for pair in ratios.items())
        return {name: float(ratio) for name, ratio in pairs if isinstance(ratio, int | float) and ratio != 1}

    def _options(self) -> Iterable[Row]:
        if "value" not in self._database.columns("options"):
            return ()
        return rows(self._database, "options", ("key", "value"), key="key")


def _usd(quota: object, per_usd: float) -> float | None:
    """Dollars to the millionth; None: there is no quota, or one that is meant to have no end."""
    usd = quota / per_usd if isinstance(quota, int | float) else _ENDLESS_USD
    return round(usd, 6) if usd < _ENDLESS_USD else None
