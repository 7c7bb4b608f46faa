"""What changed, in few words."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.changes import LARGEST, changed, encoded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=5,
)
OPTIONS = st.dictionaries(st.text(max_size=200), VALUES, max_size=30)


def test_only_what_differs_is_named():
    before = {"state": "active", "weight": 1.0, "tier": "trial"}
    after = {"state": "disabled", "weight": 1.0, "notes": "x"}
    assert changed(before, after) == {
        "state": ["active", "disabled"],
        "tier": ["trial", None],
        "notes": [None, "x"],
    }


def test_a_long_value_is_cut_and_many_are_counted():
    assert json.loads(encoded({"notes": [None, "x" * 5000]})) == {"notes": [None, "x" * 504 + "…"]}
    many = {f"option-{n:04}": ["a" * 100, "b" * 100] for n in range(1000)}
    told = json.loads(encoded(many))
    assert told.pop("…") == [None, f"{1000 - len(told)} more"]
    assert 10 < len(told) < 30


@given(OPTIONS, OPTIONS)
def test_a_record_is_bounded_json_and_equal_options_are_no_change(before, after):
    text = encoded(changed(before, after))
    assert len(text.encode()) <= LARGEST
    assert isinstance(json.loads(text), dict)
    assert changed(after, after) == {}
