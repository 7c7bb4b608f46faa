"""Bounds what callers can put into metric labels: models, clients and endpoints become known words; and how many series
a large pool has: `metrics.detail`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OTHER: Final = "other"
ANONYMOUS: Final = "anonymous"
_LONGEST_MODEL: Final = 128  # characters; no real model has a longer name


class Labels:
    """Maps the values in a request to label values: the configured ones, and at most `learn` others. `detail`: "key",
    "account" (then the label of a key is its account's id) or "pool" (then both are empty).

    Any caller can invent model names, so a model outside the configuration gets its own label only after upstream has
    answered 2xx for it, and only the first `learn` of them in each worker.
    """

    def __init__(
        self,
        *,
        models: Iterable[str] = (),
        clients: Iterable[str] = (),
        endpoints: Iterable[str] = (),
        learn: int = 100,
        detail: str = "key",
    ) -> None:
        self._learn = learn
        self._learned: set[str] = set()
        self._endpoints: dict[str | None, str] = {name: name for name in endpoints if name}
        self.configure(models=models, clients=clients, detail=detail)

    def configure(self, *, models: Iterable[str], clients: Iterable[str], detail: str = "key") -> None:
        """Take over a (re)loaded configuration. Patterns (`gpt-4o*`) name no model and are skipped."""
        self._of_keys = detail == "key"
        self._of_accounts = detail != "pool"
        self._models = frozenset(name for name in models if not any(c in name for c in "*?["))
        self._clients: dict[str | None, str] = {name: name for name in clients if name}
        self._words: dict[str | None, str] = {None: "", **{name: name for name in ("", *self._models, *self._learned)}}

    def model(self, name: str | None) -> str:
        """The label of a model; "" if the endpoint has none."""
        return self._words.get(name, OTHER)

    def upstream_served(self, model: str | None) -> None:
        """Upstream answered 2xx for `model`: it exists."""
        if model in self._words or not model:
            return
        if len(self._learned) < self._learn and len(model) <= _LONGEST_MODEL:
            self._learned.add(model)
            self._words[model] = model

    def key(self, key: str, account: str) -> str:
        return key if self._of_keys else self.account(account)

    def account(self, name: str) -> str:
        return name if self._of_accounts else ""

    def client(self, name: str | None) -> str:
        return self._clients.get(name, ANONYMOUS)

    def endpoint(self, name: str | None) -> str:
        return self._endpoints.get(name, OTHER)
