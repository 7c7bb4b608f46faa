"""The secrets of the pool's keys: used for one header, shown nowhere; and where each key's requests go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from quotapool.openai.head import Header
from quotapool.upstream.routes import Route, bearer


class Credentials:
    """Secrets by key id. `routes`: (key id, account, route) of those whose upstream is not the pool's."""

    __slots__ = ("_closed", "_headers", "_mapped", "_routes", "_secrets")

    def __init__(self, secrets: Mapping[str, str], routes: Iterable[tuple[str, str, Route]] = ()) -> None:
        self._secrets = dict(secrets)
        routes = list(routes)
        self._routes = {key: route for key, _, route in routes}
        self._headers = {
            key: self._routes[key].credential(secret) if key in self._routes else bearer(secret)
            for key, secret in secrets.items()
        }
        self._mapped = {account: route for _, account, route in routes if route.models}
        self._closed: dict[tuple[str, bool], frozenset[str]] = {}

    def __repr__(self) -> str:
        return f"<Credentials of {len(self._secrets)} keys>"

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._secrets

    def secret(self, key_id: str) -> str:
        """For finding it in what upstream answers, so that it goes no further."""
        return self._secrets[key_id]

    def header(self, key_id: str) -> Header:
        """The header that carries this key's secret."""
        return self._headers[key_id]

    def route(self, key_id: str) -> Route | None:
        """Where this key's requests go; None: to the pool's upstream, as they are."""
        return self._routes.get(key_id) if self._routes else None

    def names(self, key_id: str) -> Iterable[str] | None:
        """The clients' names for the models of this key's upstream; None: the same as upstream's."""
        route = self.route(key_id)
        return None if route is None or not route.models else route.models

    @property
    def bases(self) -> frozenset[str]:
        """The upstreams besides the pool's."""
        return frozenset(route.base for route in self._routes.values())

    def closed_to(self, model: str, *, renamable: bool) -> frozenset[str]:
        """The accounts whose upstream does not have this model. `renamable`: the request's body is held."""
        if not self._mapped:
            return frozenset()
        closed = self._closed.get((model, renamable))
        if closed is None:
            if len(self._closed) > 1_000:
                self._closed.clear()
            closed = self._closed[model, renamable] = frozenset(
                account for account, route in self._mapped.items() if not route.serves(model, renamable=renamable)
            )
        return closed


def fingerprint(secret: str) -> str:
    """Tells secrets apart without revealing them: 64 bits of SHA-256 of a random token of more than 200 bits."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]
