"""Which configured limits apply to an account and a model, and which models share one: lookups of the request path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from quotapool.domain.quantities import Limits

# A dated snapshot has the limits of its alias: gpt-4o-2024-08-06 those of gpt-4o.
_SNAPSHOT: Final = re.compile(r"(?P<alias>.+)-\d{4}-\d{2}-\d{2}", re.DOTALL)
_REMEMBERED_AT_MOST: Final = 4096  # model names come from clients: neither their number nor length is ours
_LONGEST_REMEMBERED: Final = 256


class ModelGroups:
    """Model to model group: by `groups`, else the snapshot's alias, else the model itself."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self._explicit = {model: group for group, models in groups.items() for model in models}
        self._remembered = lru_cache(_REMEMBERED_AT_MOST)(self._find)

    def of(self, model: str) -> str:
        return self._remembered(model) if len(model) <= _LONGEST_REMEMBERED else self._find(model)

    def _find(self, model: str) -> str:
        if model in self._explicit:
            return self._explicit[model]
        # A fine-tuned model is its own group, whatever its suffix looks like.
        snapshot = None if model.startswith("ft:") else _SNAPSHOT.fullmatch(model)
        alias = snapshot["alias"] if snapshot else model
        return self._explicit.get(alias, alias)


class LimitTable:
    """(account, model group) to configured limits.

    The account's limits for the model override the account's, its tier's, the model's and the default. Of several
    patterns that match a model only the most specific one counts: the exact name, else the longest.
    """

    def __init__(
        self,
        accounts: Mapping[str, Limits],
        default: Limits,
        models: Mapping[str, Limits],
        own_models: Mapping[str, Mapping[str, Limits]] | None = None,
    ) -> None:
        self._accounts = {name: limits for name, limits in accounts.items() if limits != Limits()}
        self._default = default
        self._models = _Models(models)
        self._own_models = {account: _Models(own) for account, own in (own_models or {}).items()}
        self._remembered = lru_cache(_REMEMBERED_AT_MOST)(self._find)

    def of(self, account: str, group: str) -> Limits:
        if account not in self._accounts and account not in self._own_models:
            account = ""  # all without limits of their own have the same, and are remembered once
        return self._remembered(account, group) if len(group) <= _LONGEST_REMEMBERED else self._find(account, group)

    def _find(self, account: str, group: str) -> Limits:
        own = self._accounts.get(account, Limits())
        if account in self._own_models:
            own = self._own_models[account].of(group).over(own)
        return own.over(self._models.of(group)).over(self._default)


class _Models:
    """Limits by pattern."""

    def __init__(self, limits: Mapping[str, Limits]) -> None:
        self._limits = limits
        self._patterns = sorted(limits, key=lambda pattern: (-len(pattern), pattern))

    def of(self, group: str) -> Limits:
        if group in self._limits:
            return self._limits[group]
        matching = (pattern for pattern in self._patterns if fnmatchcase(group, pattern))
        return next((self._limits[pattern] for pattern in matching), Limits())
