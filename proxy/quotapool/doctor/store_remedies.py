"""What to do when the store cannot be used, by the reason that `store/failures.py` gives."""

from __future__ import annotations

from typing import Final

from quotapool.store.store import StoreLost

_REMEDIES: Final = {
    "connect": "Start it, or correct host and port in redis:, and rediss:// for a server of TLS, redis:// for one "
    "without; a firewall may be between",
    "host": "Correct the host in redis:, or this machine's name resolution",
    "tls": "Name the authority's file with ?ssl_ca_certs= or ca_file; see store.certificate for its dates",
    "protocol": "Correct host and port in redis:; a server of TLS is named with rediss://",
    "login": "Correct user and password in redis:; @, / and : in them are written %40, %2F and %3A",
    "permission": "Grant it to the user in redis: docs/managed-redis.md#rights-in-the-store",
    "timeout": "It accepts and does not answer: see whether it hangs, swaps, or runs a slow command (SLOWLOG GET); "
    "rediss:// is for a server of TLS, redis:// for one without",
    "loading": "Wait until it has loaded its data",
    "read_only": "Name its primary, or use redis+sentinel://",
    "out_of_memory": "Give it more memory; it must not evict (docs/sizing.md)",
    "disk": "It cannot write to its disk: see its log, and the disk's free space",
    "busy": "A script of somebody runs too long there: SCRIPT KILL",
    "replicas": "It waits for replicas that are not there (min-replicas-to-write)",
    "cluster_down": "See `CLUSTER INFO` there; a Cluster is named with redis+cluster://",
    "too_many_calls": "Try again",
    "server": "See its log; it may have too many clients (maxclients)",
}


def remedy_for(lost: StoreLost) -> str:
    """In one sentence without a period."""
    return _REMEDIES.get(lost.reason, "See docs/operations.md#the-store-is-down")
