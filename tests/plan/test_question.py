"""What is wrong with where and when a plan reads is said of its option, with the value as it was typed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from quotapool.cli.plan import Question, check, span
from quotapool.money.question import BadQuestionError
from quotapool.plan.changes import Changes

NOW = datetime(2026, 11, 18, 12, 30, tzinfo=UTC)


def asked(source: str = "ring", since: str | None = None, until: str | None = None, tokens: int | None = None):
    return Question(source, since, until, Changes(), tokens, 1000, 1)


def read_span(question: Question) -> None:
    check(question)
    span(question, ZoneInfo("UTC"), NOW)


@pytest.mark.parametrize(
    ("question", "option", "why"),
    [
        (asked(since="2030-01-01"), "since", "'2030-01-01' is in the future"),
        (asked(since="soon"), "since", "'soon' must be a day"),
        (asked(until="1970-01-01"), "until", "'1970-01-01' is not after 1970-01-01 00:00 UTC, where the record begins"),
        (asked("usage", until="2d"), "until", "'2d' is not after 2026-11-17 12:30 UTC, where the record begins"),
        (asked(since="2h", until="3h"), "until", "'3h' is not after --since 2h"),
        (asked(""), "from", "'' is nothing to read"),
        (asked(tokens=10**13), "tokens", "10000000000000 is more than a request can use"),
    ],
)
def test_what_is_wrong_is_said_of_its_option(question, option, why):
    with pytest.raises(BadQuestionError) as refused:
        read_span(question)
    assert (refused.value.option, str(refused.value)[: len(why)]) == (option, why)


def test_the_ring_is_read_as_a_whole_and_usage_a_day_back():
    assert span(asked(), ZoneInfo("UTC"), NOW) == (datetime.fromtimestamp(0, UTC), NOW)
    assert span(asked("usage"), ZoneInfo("UTC"), NOW) == (datetime(2026, 11, 17, 12, 30, tzinfo=UTC), NOW)
