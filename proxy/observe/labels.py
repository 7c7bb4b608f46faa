"""Bounds what strangers can write into metric labels: models, clients and endpoints become known words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OTHER: Final = "other"
ANONYMOUS: Final = "anonymous"
_LONGEST_MODEL: Final = 128  # characters; a longer name is no model of anyone's


class Labels:
    """Maps what a request says to label values, of which there are never more than configured plus `learn`.

    Any caller can invent model names, so a model outside the configuration gets its own label only after
    upstream answered 2xx for it, and only the first `learn` of them in each worker.
    """

    def __init__(
        self,
        *,
        models: Iterable[str] = (),
        clients: Iterable[str] = (),
        endpoints: Iterable[str] = (),
        learn: int = 100,
    ) -> None:
        self._learn = learn
        self._learned: set[str] = set()
        self.configure(models=models, clients=clients, endpoints=endpoints)

    def configure(
        self, *, models: Iterable[str], clients: Iterable[str], endpoints: Iterable[str] | None = None
    ) -> None:
        """Take over a (re)loaded configuration. Patterns (`gpt-4o*`) name no model and are skipped."""
        self._models = frozenset(name for name in models if not any(c in name for c in "*?["))
        self._clients = frozenset(clients)
        if endpoints is not None:
            self._endpoints = frozenset(endpoints)

    def model(self, name: str | None) -> str:
        """The label of a model; "" where the endpoint has none."""
        if not name:
            return ""
        return name if name in self._models or name in self._learned else OTHER

    def upstream_served(self, model: str | None) -> None:
        """Upstream answered 2xx for `model`: it exists."""
        room = len(self._learned) < self._learn
        if room and model and len(model) <= _LONGEST_MODEL and model not in self._models:
            self._learned.add(model)

    def client(self, name: str | None) -> str:
        return name if name in self._clients and name else ANONYMOUS

    def endpoint(self, name: str | None) -> str:
        return name if name in self._endpoints and name else OTHER
