"""Which answers are kept, for whom, and for how long. `docs/cache.md` says when that is safe."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from quotapool.settings.values import ModelName, PositiveDuration, Section, Size


class Cache(Section):
    """`models`: names or patterns (fnmatch) whose answers are kept; empty: there is no cache. `clients`: all, or those
    that say `cache: true`. `scope`: who may be served another's answer. `ttl` in seconds; `max_entry` and `max_size`
    (of all that the pool keeps) in bytes. `tools`: answers that call tools, too. `max_temperature`: a request above it
    is not looked up, unless it asks for that. `coalesce`: identical requests under way share one call. `client_pays`:
    which part of the price a client's own budgets are charged for an answer from the cache."""

    models: tuple[ModelName, ...] = ()
    clients: Literal["all", "named"] = "all"
    scope: Literal["client", "team", "pool"] = "client"
    ttl: PositiveDuration = 3600.0
    max_entry: Annotated[Size, Field(ge=1024, le=8 * 2**20)] = 2**20
    max_size: Annotated[Size, Field(ge=2**20)] = 256 * 2**20
    tools: bool = False
    max_temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    coalesce: bool = True
    client_pays: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0

    def keeps(self, model: str) -> bool:
        """Whether answers of this model are kept."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def scope_of(self, client: str, team: str | None, since: float = 0.0) -> str:
        """Equal for those who share answers. `client`: its id, "" without one; `since`: when it was made (Unix
        seconds), so that the next one of its name is another."""
        if self.scope == "pool":
            return "pool"
        return f"team {team}" if self.scope == "team" and team else f"client {client} {since}"

    def serves(self, own_choice: bool | None) -> bool:
        """Whether a client is served from it. `own_choice`: its option `cache`."""
        return (self.clients == "all") if own_choice is None else own_choice
