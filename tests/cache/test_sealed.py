"""An entry as bytes, and back: the same in every field, and nothing that is not one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cache.entry import Cost, Entry, Form
from quotapool.cache.sealed import Dated, from_bytes, to_bytes

NUMBERS = st.integers(0, 2**53)
ENTRIES = st.builds(
    Entry,
    form=st.sampled_from(Form),
    body=st.binary(max_size=300),
    content_type=st.text(max_size=40),
    model=st.text(max_size=40),
    cost=st.builds(Cost, prompt=NUMBERS, completion=NUMBERS, pico=st.none() | NUMBERS),
)
SECONDS = st.floats(0, 4e9)


@given(st.builds(Dated, ENTRIES, SECONDS, SECONDS))
def test_an_entry_comes_back_as_it_was(dated):
    assert from_bytes(to_bytes(dated)) == dated


@given(st.binary(max_size=60))
def test_what_is_no_entry_is_none(raw):
    assert from_bytes(raw) is None


@pytest.mark.parametrize(
    "head",
    [[], [1.0], [1.0, 2.0, "html", "text", "gpt", 1, 2, 3], {"made": 1.0}, [1.0, 2.0, "json", None, "gpt", 1, 2, 3]],
)
def test_another_head_is_none(head):
    packed = msgspec.msgpack.encode(head)
    assert from_bytes(len(packed).to_bytes(2, "big") + packed + b"{}") is None


def test_a_head_that_is_cut_is_none():
    whole = to_bytes(Dated(Entry(Form.EVENTS, b"data: {}\n\n"), 1.0, 2.0))
    head = 2 + int.from_bytes(whole[:2], "big")
    assert [from_bytes(whole[:n]) for n in range(head)] == [None] * head
    assert from_bytes(whole[:head]) == Dated(Entry(Form.EVENTS, b""), 1.0, 2.0)


def test_a_head_has_a_bound():
    with pytest.raises(ValueError, match="too long"):
        to_bytes(Dated(Entry(Form.JSON, b"{}", model="m" * 70_000), 1.0, 2.0))
