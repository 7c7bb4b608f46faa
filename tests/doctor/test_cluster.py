"""A real Cluster, named as one and named as a single server: each node has users, memory and rights of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
from quotapool.doctor import store as doctor
from quotapool.doctor.finding import Status

from tests.doctor.conftest import gathered, lasting, named
from tests.fakes.cluster import cluster
from tests.ledger.test_rights import acl_line

PASSWORD = "hunter2-of-the-store"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """The ports of three masters, which the tests here share."""
    with asyncio.Runner() as runner:
        running = cluster(tmp_path_factory.mktemp("cluster"))
        yield list(runner.run(running.__aenter__()))[:3]
        runner.run(running.__aexit__(None, None, None))


async def test_every_primary_is_judged_by_its_own_name(settings_of, nodes):
    found = await gathered(doctor.check(settings_of(redis=f"redis+cluster://127.0.0.1:{nodes[0]}"), None))
    versions = [finding.text for finding in found if finding.check == "store.version"]
    assert sorted(text.partition(" is valkey")[0] for text in versions) == sorted(f"127.0.0.1:{port}" for port in nodes)
    assert named(found, "store.rights").status is Status.OK
    assert named(found, "store.script").status is Status.OK
    assert Status.PROBLEM not in lasting(found).values()


async def test_one_node_without_a_right_is_found_by_the_keys_that_it_has(settings_of, nodes):
    """Nodes do not tell each other of users."""
    clients = [redis.Redis(port=port) for port in nodes]
    for client in clients:
        client.execute_command("ACL", "SETUSER", "qp-user", "reset", f">{PASSWORD}", *acl_line())
    slot = clients[0].execute_command("CLUSTER KEYSLOT", "qp:{default:spend}:x")
    holder = clients[min(slot // 5461, 2)]  # as the fake hands slots out
    holder.execute_command("ACL", "SETUSER", "qp-user", "-zadd")
    url = f"redis+cluster://qp-user:{PASSWORD}@127.0.0.1:{nodes[0]}"
    found = await gathered(doctor.check(settings_of(redis=url), None))
    lacking = named(found, "store.rights")
    assert lacking.text.startswith("ZADD is refused: ")
    assert "qp:{default:spend}" in lacking.text


async def test_a_node_that_is_named_as_a_single_server_is_told_with_the_right_scheme(settings_of, nodes):
    found = await gathered(doctor.check(settings_of(redis=f"redis://127.0.0.1:{nodes[0]}"), None))
    assert named(found, "store.cluster").status is Status.WARNING
    assert "redis+cluster://" in named(found, "store.cluster").remedy
    assert any(finding.status is Status.PROBLEM for finding in found)
