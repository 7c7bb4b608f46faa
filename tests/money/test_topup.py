"""`quotapool keys topup` refuses wrong values before it changes anything."""

from __future__ import annotations

import pytest
from quotapool.cli.topup import run
from quotapool.settings import Settings


@pytest.mark.parametrize(
    ("usd", "granted", "expires", "complaint"),
    [
        (0.0, None, None, "more than 0"),
        (-5.0, None, None, "more than 0"),
        (float("nan"), None, None, "more than 0"),
        (float("inf"), None, None, "more than 0"),
        (5.0, None, "soon", "YYYY-MM-DD"),
        (5.0, "31.01.2027", None, "YYYY-MM-DD"),
        (5.0, None, "2020-01-01", "later than --granted"),
        (5.0, "2027-01-31", "2027-01-31", "later than --granted"),
    ],
)
def test_a_wrong_top_up_is_refused_with_its_reason(capsys, usd, granted, expires, complaint):
    assert run(Settings(), "acme", usd, granted=granted, expires=expires) == 2
    assert complaint in capsys.readouterr().err
