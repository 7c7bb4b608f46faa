"""`docs/errors.md` lists every error the proxy makes, as the proxy makes it."""

from __future__ import annotations

import re
from pathlib import Path

from quotapool.openai.replies import ALL

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| (yes|no) \| (.+) \| (.+) \|$", re.MULTILINE)


def test_the_table_is_the_code():
    documented = {code: tuple(cells) for code, *cells in ROW.findall(PAGE)}
    assert documented == {
        e.code: (str(e.status), e.type, "yes" if e.should_retry else "no", e.cause, e.remedy) for e in ALL
    }


def test_no_error_is_listed_twice():
    codes = [row[0] for row in ROW.findall(PAGE)]
    assert len(codes) == len(set(codes)) == len(ALL)
