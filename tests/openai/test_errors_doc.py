"""`docs/errors.md` lists every error the proxy makes, as the proxy makes it; its translation lists the same ones."""

from __future__ import annotations

import re
from pathlib import Path

from quotapool.openai.replies import ALL

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| (yes|no|是|否) \| (.+) \| (.+) \|$", re.MULTILINE)
INLINE = re.compile(r"`[^`]+`")


def rows(page: str) -> list[tuple[str, ...]]:
    return ROW.findall((DOCS / page).read_text())


def test_the_table_is_the_code():
    documented = {code: tuple(cells) for code, *cells in rows("errors.md")}
    assert documented == {
        e.code: (str(e.status), e.type, "yes" if e.should_retry else "no", e.cause, e.remedy) for e in ALL
    }


def test_no_error_is_listed_twice():
    codes = [row[0] for row in rows("errors.md")]
    assert len(codes) == len(set(codes)) == len(ALL)


def test_the_chinese_table_has_the_same_errors_in_the_same_order():
    retry = {"是": "yes", "否": "no"}
    chinese = [(*row[:3], retry.get(row[3])) for row in rows("errors.zh.md")]
    assert chinese == [row[:4] for row in rows("errors.md")]


def test_the_chinese_remedies_name_the_same_commands_and_options():
    for chinese, english in zip(rows("errors.zh.md"), rows("errors.md"), strict=True):
        assert [INLINE.findall(cell) for cell in chinese[4:]] == [INLINE.findall(cell) for cell in english[4:]]
