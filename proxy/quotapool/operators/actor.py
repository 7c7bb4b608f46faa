"""Who does something to the pool: the name by which the operators' room knows `domain/actor.py`."""

from __future__ import annotations

from quotapool.domain.actor import Actor, Role

__all__ = ["Actor", "Role"]
