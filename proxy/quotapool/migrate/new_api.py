"""new-api, which began as one-api: its own types of channels, channels with many keys, and more limits of tokens.

Facts from the repository QuantumNous/new-api, besides those of one-api:
- model/channel.go: with `channel_info.is_multi_key`, `key` has a key a line, or is a JSON list, and
  `channel_info.multi_key_status_list` the status of each by its number from 0; who is missing there is enabled.
- constant/channel.go: the types of channels, and their URLs; in those of type 8 it is that of one endpoint.
- model/token.go: `model_limits` (separated by commas) count with `model_limits_enabled`; `allow_ips` has one a line;
  `group` is the token's own, "": that of its user, `auto`: any that its user may use.
- relay: `setting`, `settings`, `param_override` and `header_override` of a channel change requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from quotapool.migrate.database import Row
from quotapool.migrate.found import json_of, mapping_of, words
from quotapool.migrate.one_api import ENABLED, OneApi

_CUSTOM: Final = 8
_ENDPOINT: Final = re.compile(r"[{}]|/(?:chat/completions|completions|embeddings|responses)$")


class NewApi(OneApi):
    """A database of new-api. `only`: names of groups of channels; none: all."""

    title: ClassVar = "new-api"
    urls: ClassVar[Mapping[int, str]] = {
        1: "https://api.openai.com",
        3: "",
        6: "https://api.openaimax.com",
        7: "https://api.ohmygpt.com",
        _CUSTOM: "",
        10: "https://api.aiproxy.io",
        12: "https://api.api2gpt.com",
        13: "https://api.aigc2d.com",
        20: "https://openrouter.ai/api",
        25: "https://api.moonshot.cn",
        31: "https://api.lingyiwanwu.com",
        40: "https://api.siliconflow.cn",
        42: "https://api.mistral.ai",
        43: "https://api.deepseek.com",
        48: "https://api.x.ai",
    }
    settings: ClassVar[Mapping[str, str]] = {
        "param_override": "fields that it set in every request body",
        "header_override": "headers that it set",
        "status_code_mapping": "statuses that it changed",
    }
    channel_columns: ClassVar[tuple[str, ...]] = ("channel_info", "openai_organization")
    token_columns: ClassVar[tuple[str, ...]] = ("model_limits_enabled", "model_limits", "allow_ips", "group")

    def secrets_of(self, row: Row) -> list[tuple[str, bool]]:
        info = mapping_of(row["channel_info"])
        text = str(row["key"] or "").strip()
        written = json_of(text) if text.startswith("[") else None
        secrets = [str(one) for one in written] if isinstance(written, list) else text.split("\n")
        statuses = info.get("multi_key_status_list") if info.get("is_multi_key") else None
        known = statuses if isinstance(statuses, dict) else {}
        return [
            (secret.strip(), known.get(str(number), ENABLED) == ENABLED)
            for number, secret in enumerate(secrets)
            if secret.strip()
        ]

    def account_of(self, row: Row) -> dict[str, Any]:
        organization = str(row["openai_organization"] or "").strip()
        return {**super().account_of(row), **({"organization": organization} if organization else {})}

    def unusable_url(self, row: Row, url: str) -> str | None:
        if row["type"] == _CUSTOM and _ENDPOINT.search(url):
            return "its URL is that of one endpoint, not what all of them begin with"
        return super().unusable_url(row, url)

    def models_of(self, row: Row) -> list[str] | None:
        return words(row["model_limits"]) if row["model_limits_enabled"] else None

    def networks_of(self, row: Row) -> list[str]:
        return words(row["allow_ips"], ",\n ")

    def groups_of(self, row: Row, of_user: str) -> tuple[str, ...] | None:
        own = str(row["group"] or "").strip()
        return None if own == "auto" else (own or of_user,)
