"""Names and roles of operators."""

from __future__ import annotations

import pytest
from quotapool.domain.actor import is_name, role_of


@pytest.mark.parametrize(
    ("values", "operators", "viewers", "role"),
    [
        (["jane@example.com"], ["jane@example.com"], [], "operator"),
        (["jane@example.com"], ["*@example.com"], ["*"], "operator"),
        (["jane@example.com"], [], ["*@example.com"], "viewer"),
        (["jane@example.com.evil.example"], ["*@example.com"], [], None),
        (["Jane@example.com"], ["jane@example.com"], [], None),
        (["a", "b"], ["c", "b"], ["a"], "operator"),
        ([], ["*"], ["*"], None),
        (["anything"], [], [], None),
    ],
)
def test_a_role_is_the_highest_that_is_earned(values, operators, viewers, role):
    assert role_of(values, operators, viewers) == role


@pytest.mark.parametrize("text", ["", " x", "x ", "x\n", "x\x00y", "\x1b[31mx", "\u202ex", "x" * 129])
def test_what_a_record_should_not_show_is_no_name(text):
    assert not is_name(text)
    assert is_name("Zoë Ångström")
    assert is_name("jane@example.com")
