"""All that a user of the store lacks, not only the first of it: for people who grant rights, and want to do it once."""

from __future__ import annotations

from typing import Final

from quotapool.ledger.declared_keys import keys_of_rights
from quotapool.store.store import Script, Store, text_of

# What follows the pool's name in the hash tags of its keys, and what is kept there. Each may be in another slot of a
# Cluster, hence on another server, whose users may have other rights.
_FAMILIES: Final = {
    "": "budgets, states and clients",
    ":spend": "spend and usage",
    ":samples": "samples of the room",
    ":requests": "the last requests",
    ":login": "logins",
    ":alerts": "alerts",
    ":advice": "advice",
    ":outside": "tallies of outside use",
    ":cache": "the cache",
    ":obj:homes": "clients' home accounts",
    ":obj:00": "stored objects",
}


def families(pool: str) -> dict[str, str]:
    """What keys of the pool begin with -> what they are for. Of stored objects one prefix of 64 stands for all."""
    return {f"qp:{{{pool}{tag}}}": purpose for tag, purpose in _FAMILIES.items()}


async def refused(store: Store, prefix: str) -> list[str]:
    """Every command that the store does not allow on keys of this prefix, each with the server's words; [] if it
    allows all. Raises StoreLost if it allows no script there at all, StoreRefused."""
    keys = keys_of_rights(prefix)
    await store.guard(store.client.execute_command("EVAL", "return 1", 1, keys[0]))  # EVALSHA may do without it today
    answer = await store.evalsha(Script.of(__package__, "rights"), keys, ["all"])
    return [text_of(line) for line in answer]
