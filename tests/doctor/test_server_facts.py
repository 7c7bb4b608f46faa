"""What servers say of themselves, as the products do: what is told is judged, what is left out is not."""

from __future__ import annotations

from typing import Any

import pytest
from quotapool.doctor.finding import Status
from quotapool.doctor.server_facts import is_cluster_node, judged

from tests.doctor.conftest import named, statuses

GIB = 2**30
HEALTHY: dict[str, Any] = {
    "server_name": "valkey",
    "redis_version": "7.2.4",
    "valkey_version": "8.1.3",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "evicted_keys": 0,
    "used_memory": GIB,
    "maxmemory": 4 * GIB,
    "total_system_memory": 16 * GIB,
    "connected_clients": 20,
    "maxclients": 10_000,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "connected_slaves": 0,
}
OK, SKIPPED, WARNING, PROBLEM = Status.OK, Status.SKIPPED, Status.WARNING, Status.PROBLEM


def test_a_healthy_server_has_nothing_to_be_done():
    found = list(judged(HEALTHY, "the store"))
    assert {finding.status for finding in found} == {OK}
    assert {finding.remedy for finding in found} == {""}
    assert named(found, "store.version").text == "the store is valkey 8.1.3"
    assert named(found, "store.memory").text == "the store uses 1.0 GiB of 4.0 GiB (maxmemory)"


@pytest.mark.parametrize(
    ("change", "check", "status"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "store.eviction", PROBLEM),
        ({"maxmemory_policy": "volatile-ttl"}, "store.eviction", PROBLEM),
        ({"evicted_keys": 3}, "store.eviction", WARNING),
        ({"role": "slave"}, "store.role", PROBLEM),
        ({"redis_version": "6.0.16", "valkey_version": None, "server_name": None}, "store.version", PROBLEM),
        ({"redis_version": "6.2.0", "valkey_version": None, "server_name": None}, "store.version", OK),
        ({"used_memory": 3.1 * GIB}, "store.memory", OK),
        ({"used_memory": 3.3 * GIB}, "store.memory", WARNING),  # above 80 %
        ({"used_memory": 3.9 * GIB}, "store.memory", PROBLEM),  # above 95 %
        ({"maxmemory": 0, "used_memory": 12 * GIB}, "store.memory", OK),  # of its machine's 16
        ({"maxmemory": 0, "used_memory": 13 * GIB}, "store.memory", WARNING),
        ({"maxmemory": 0, "total_system_memory": 0}, "store.memory", OK),
        ({"connected_clients": 8_000}, "store.connections", WARNING),
        ({"connected_clients": 7_999}, "store.connections", OK),
        ({"aof_enabled": 0}, "store.persistence", WARNING),
        ({"aof_enabled": 0, "connected_slaves": 1}, "store.persistence", OK),
        ({"aof_enabled": 0, "rdb_last_bgsave_status": "err"}, "store.persistence", PROBLEM),
        ({"aof_last_write_status": "err"}, "store.persistence", PROBLEM),
    ],
)
def test_each_fault_has_its_line_and_a_remedy(change, check, status):
    found = list(judged({**HEALTHY, **change}, "the store"))
    finding = named(found, check)
    assert finding.status is status
    assert bool(finding.remedy) is (status in {WARNING, PROBLEM})
    assert {other.status for other in found if other.check != check} == {OK}


def test_what_a_managed_service_does_not_tell_is_no_fault():
    found = statuses(judged({"redis_version": "7.0.0", "role": "master"}, "the store"))
    assert found == {
        "store.version": OK,
        "store.eviction": SKIPPED,
        "store.memory": SKIPPED,
        "store.persistence": SKIPPED,
    }


@pytest.mark.parametrize(
    ("info", "is_node"),
    [
        ({"cluster_enabled": 1}, True),
        ({"redis_mode": "cluster"}, True),
        ({"redis_mode": "standalone"}, False),
        ({}, False),
    ],
)
def test_a_node_of_a_cluster_is_known_by_what_it_says(info, is_node):
    assert is_cluster_node(info) is is_node
