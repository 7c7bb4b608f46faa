"""Answers of thousands of rows are the same as if they were made at once, and others have their turn meanwhile."""

from __future__ import annotations

import asyncio
import gzip

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.operators.big_answers import AT_ONCE, compressed, encoded, in_turns, ordered, takes_gzip


class Row(msgspec.Struct):
    id: str
    left: float | None


class Rows(msgspec.Struct, rename={"since": "from"}):
    rows: list[Row]
    since: str
    note: str | msgspec.UnsetType = msgspec.UNSET


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
async def test_a_long_list_is_encoded_as_a_short_one_is(count):
    answer = Rows([Row(f'key-"{n}"', n / 3) for n in range(count)], "2026-11-29")
    assert await encoded(answer) == msgspec.json.encode(answer)
    as_dict = {"keys": [{"id": n} for n in range(count)], "total": count}
    assert await encoded(as_dict) == msgspec.json.encode(as_dict)


@given(st.lists(st.tuples(st.integers(0, 20), st.text(max_size=3)), max_size=50), st.integers(1, 60))
def test_sorting_in_turns_is_sorting(rows, copies):
    many = rows * copies
    assert asyncio.run(ordered(many, lambda row: row[0])) == sorted(many, key=lambda row: row[0])


async def test_others_have_their_turn_while_rows_are_made():
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert [row async for row in in_turns(range(1_000), 100)] == list(range(1_000))
    task.cancel()
    assert turns >= 9  # once after each hundred but the last


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("", False), ("br", False), ("gzip;q=0", False)],
)
async def test_only_who_accepts_gzip_gets_it(accepted, taken):
    assert takes_gzip(accepted) is taken
    body = b"x" * 100_000
    small = await compressed(body, accepted)
    assert (small is not None) is taken
    if small is not None:
        assert gzip.decompress(small) == body
    assert await compressed(b"short", accepted) is None
