"""Which keys of the store the scripts touch, for servers that must be told: a Cluster while a slot moves, Dragonfly.

The names are those under "Stored" in `lua/*.lua`. Small scripts get theirs as KEYS, always. The batch's script derives
them from the pool's prefix, since to declare all of them with each call costs a worker some 10 µs for a lone request
(decision 21); `keys_of_batch` repeats what it derives, and `tests/ledger/test_declared_keys.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quotapool.ledger.items import Item


def keys_of_batch(prefix: str, batch_id: str, answered: str, items: Iterable[Item]) -> list[str]:
    """Every key but the prefix that `lua/ledger/*.lua` may touch. `answered`: its last argument."""
    names = ["epoch", "version", "steps", "states", "buckets", f"batch:{batch_id}"]
    if answered:
        names.append(f"batch:{answered}")
    keys = dict.fromkeys(f"{prefix}:{name}" for name in names)  # ordered, each once
    for item in items:
        keys.update(dict.fromkeys(item.keys(prefix)))
    return list(keys)


def keys_of_state(prefix: str, brake: str) -> list[str]:
    """KEYS of `lua/state.lua`. `brake`: the name of the brake that the change must pass, or ""."""
    keys = [f"{prefix}:{name}" for name in ("states", "version", "events", "stopped")]
    return [*keys, f"{prefix}:removals:{brake}", f"{prefix}:brake:{brake}"] if brake else keys


def keys_of_states(prefix: str) -> list[str]:
    """KEYS of `lua/states.lua`."""
    return [f"{prefix}:{name}" for name in ("states", "version", "events")]


def keys_of_try_now(prefix: str) -> list[str]:
    """KEYS of `lua/try_now.lua`."""
    return [f"{prefix}:states", f"{prefix}:version"]


def keys_of_clock(prefix: str, groups: Sequence[str]) -> list[str]:
    """KEYS of `lua/clock.lua`. `groups`: all that have a bucket."""
    return [f"{prefix}:states", f"{prefix}:version", *(f"{prefix}:next:{group}" for group in groups)]


def keys_of_rights(prefix: str) -> list[str]:
    """KEYS of `lua/rights.lua`: one of each type, used by nothing else."""
    return [f"{prefix}:rights:{kind}" for kind in ("text", "hash", "set", "sorted", "stream")]
