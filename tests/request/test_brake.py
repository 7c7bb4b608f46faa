"""A gateway that says 401 to everything does not empty the pool, and clients are told that it is our trouble."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fakes.edge import chat_answer, error

NO_MEMBER = error(401, None, "You must be a member of an organization to use the API.")
WRONG_KEY = error(401, "invalid_api_key", "Incorrect API key provided: sk-***.")
ENDED = error(403, "access_terminated", "Your access was terminated due to violation of our policies", "x")


async def counted(pool) -> Counter[str]:
    return Counter(str(record.state) for record in (await pool.states()).values())


@pytest.mark.parametrize(
    ("answer", "removed"),
    [
        pytest.param(NO_MEMBER, 2, id="a wording"),
        pytest.param(WRONG_KEY, 8, id="a code"),
        pytest.param(ENDED, 10, id="OpenAI's last word"),
    ],
)
async def test_only_so_many_keys_are_removed_for_one_cause_and_the_others_rest(open_pool, answer, removed):
    pool = await open_pool({f"a{n}": 1 for n in range(10)}, max_removals=2)
    pool.upstream.otherwise = answer
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (503, "pool_no_usable_keys")
    suspects = 10 - removed
    assert await counted(pool) == Counter(removed=removed) + Counter(suspect=suspects)
    assert len(pool.recorder.stops) == (1 if suspects else 0)
    assert Counter(str(state) for _, state, _ in pool.recorder.states) == await counted(pool)


async def test_suspects_of_the_brake_come_back_when_the_gateway_is_mended(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, max_removals=0)
    pool.upstream.otherwise = WRONG_KEY
    await pool.ask()
    assert await counted(pool) == {"suspect": 2}
    pool.upstream.otherwise = chat_answer()
    for field, record in (await pool.states()).items():
        await pool.ledger.registry.change_state(field, None, by="operator", fingerprint=record.fingerprint)
        await pool.ledger.registry.change_state(field, record, rest_s=1e-6, fingerprint=record.fingerprint)
    await pool.sync.refresh()
    assert [(await pool.ask()).status for _ in range(3)] == [200, 200, 200]
    assert await pool.states() == {}


async def test_one_suspect_that_answers_again_wakes_the_others_of_the_same_reason(open_pool):
    """Given ten suspects that rest for an hour, and one whose time has come, I expect all back within ten requests."""
    pool = await open_pool({f"a{n}": 1 for n in range(10)}, max_removals=0)
    pool.upstream.otherwise = WRONG_KEY
    await pool.ask()
    assert await counted(pool) == {"suspect": 10}
    pool.upstream.otherwise = chat_answer()
    for n, (field, record) in enumerate((await pool.states()).items()):
        await pool.ledger.registry.change_state(field, None, by="operator", fingerprint=record.fingerprint)
        await pool.ledger.registry.change_state(
            field, record, rest_s=3600 if n else 1e-6, fingerprint=record.fingerprint
        )
    await pool.sync.refresh()
    while await counted(pool) == {"suspect": 10}:  # the one that is due is found by chance
        await pool.ask()
    for _ in range(40):
        assert (await pool.ask()).status == 200
    assert await pool.states() == {}
