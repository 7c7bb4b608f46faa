"""A client of the proxy: who may call, with what rights. One description for those of the configuration and for those
that are made while the proxy runs."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, model_validator

from quotapool.settings.mistakes import in_other_words
from quotapool.settings.rules import RuleOptions, Text
from quotapool.settings.values import Duration, KeyHash, ModelName, Name, NetworkName, Token, check_token, sha256_hex

SHORTEST_CLIENT_KEY: Final = 16  # characters; a shorter one could be guessed
_MOST_MODELS: Final = 1_000
_MOST_LABELS: Final = 50
_MOST_NETWORKS: Final = 100


class ClientOptions(RuleOptions):
    """What a client may do, and what people should know of it. `name`: for people, in any script.

    `team`: it shares that team's limits and budgets besides its own. `models`: names or patterns (fnmatch); empty: all.
    `expires_on`: the first day (UTC) on which its key is refused. `allowed_ips`: addresses or networks that it may call
    from; empty: any. `on_stream_overrun`: whether a stream that uses up a budget is finished or cut. `cache`: whether
    it is served from the cache; None: as the option `cache.clients` says.
    """

    team: Name | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    priority: Literal["high", "normal", "batch"] = "normal"
    max_wait: Duration | None = None
    models: Annotated[tuple[ModelName, ...], Field(max_length=_MOST_MODELS)] = ()
    expires_on: date | None = None
    allowed_ips: Annotated[tuple[NetworkName, ...], Field(max_length=_MOST_NETWORKS)] = ()
    on_stream_overrun: Literal["finish", "cut"] = "finish"
    cache: bool | None = None
    labels: Annotated[dict[Name, Text], Field(max_length=_MOST_LABELS)] = {}


class Client(ClientOptions):
    """A client that may call. Configured with `key` or `key_hash`; only the SHA-256 (lower-case hex) is kept."""

    id: Name
    key: Token | None = None  # always None once loaded
    key_hash: KeyHash

    @model_validator(mode="before")
    @classmethod
    def _keep_only_the_hash(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        key, known = given.get("key"), cls.model_fields.keys()
        if key is None and any(in_other_words(cls, str(name)) in {"key", "key_hash"} for name in given.keys() - known):
            return {**given, "key_hash": "0" * 64}  # so that only the wrong name is a problem
        if (key is None) == (given.get("key_hash") is None):
            raise ValueError("needs either key or key_hash")
        text = key.get_secret_value() if isinstance(key, SecretStr) else key
        if not isinstance(text, str):
            return given
        text = check_token(SecretStr(text)).get_secret_value()
        if len(text) < SHORTEST_CLIENT_KEY:
            raise ValueError(f"key is too short: at least {SHORTEST_CLIENT_KEY} characters")
        rest = {name: value for name, value in given.items() if name != "key"}
        return {**rest, "key_hash": sha256_hex(text)}
