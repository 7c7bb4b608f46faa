"""The configuration in force: one frozen snapshot, replaced as a whole by a reload, so that no request is served by
halves of two configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quotapool.domain.pool import Key
from quotapool.settings import Client, Settings
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Upstream
from quotapool.upstream.routes import Route


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`upstream` is the pool's, `others` are those that some keys have to themselves, by address; `clients` by id."""

    settings: Settings
    keys: tuple[Key, ...]
    credentials: Credentials
    upstream: Upstream
    others: Mapping[str, Upstream]
    clients: Mapping[str, Client]

    def upstream_of(self, route: Route | None) -> Upstream:
        """Where a key's requests go. `route` is of this snapshot's credentials."""
        return self.upstream if route is None else self.others[route.base]


class Configuration:
    """Where every part finds the snapshot in force. A request reads `now` once and keeps what it got."""

    __slots__ = ("now",)

    def __init__(self, snapshot: Snapshot) -> None:
        self.now = snapshot

    def __repr__(self) -> str:
        return f"<Configuration of {len(self.now.keys)} keys>"
