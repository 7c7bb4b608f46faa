"""No row of the classifier's table can be removed or changed unnoticed: some typed expectation fails.

The expectations are those of the tables beside this file, typed from OpenAI's facts. A row whose mutation nobody
notices is superfluous (another row or the status says the same), or its fact is not tested.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from quotapool.domain.verdict import Kind, Scope
from quotapool.openai import classify as classifier
from quotapool.openai.classify import classify, classify_stream_error

from tests.fakes.heads import head
from tests.openai.test_classify import CODES, ERRORS, TYPES, WORDS, body
from tests.openai.test_classify_rate_limits import LIMITS
from tests.openai.test_classify_stream import EVENTS


def of(kind: Kind) -> Scope | None:
    """The scope where a table names none: only money and death are about somebody, and those tables name whom."""
    return None if kind in {Kind.MONEY, Kind.DEAD} else Scope.NONE


# (status or None for an event of a stream, payload, kind, scope or None where the table names none, reason or None)
EXPECTED = [
    *[(s, body(m, t, c), kind, scope, reason) for s, m, t, c, kind, scope, reason in ERRORS],
    *[(s, body("New words.", "new_type", c), kind, scope, c) for s, c, kind, scope in CODES],
    *[(s, body("New words.", t, None), kind, scope, t) for s, t, kind, scope in TYPES],
    *[(s, body(m, None, None), kind, of(kind), reason) for s, m, kind, reason in WORDS],
    *[(429, body(m, t, c), e[0], Scope.NONE, None) for m, t, e in LIMITS for c in ("rate_limit_exceeded", None)],
    *[(None, json.dumps(event).encode(), kind, scope, reason) for event, kind, scope, reason in EVENTS],
]
OTHER_SCOPE = {
    Scope.NONE: Scope.KEY,
    Scope.KEY: Scope.ACCOUNT,
    Scope.ACCOUNT: Scope.ORGANIZATION,
    Scope.ORGANIZATION: Scope.ACCOUNT,
}
RULES = classifier._RULES


def disagrees(expected) -> bool:
    status, payload, kind, scope, reason = expected
    verdict = classify_stream_error(payload) if status is None else classify(status, head(), payload)
    return (
        verdict.kind is not kind
        or (scope is not None and verdict.scope is not scope)
        or (reason is not None and verdict.reason != reason)
    )


def mutants(index: int):
    rule = RULES[index]
    before, after = RULES[:index], RULES[index + 1 :]
    other = Kind.STATE if rule.kind is not Kind.STATE else Kind.REQUEST
    yield "removed", before + after
    yield "its kind changed", (*before, replace(rule, kind=other), *after)
    yield "its scope changed", (*before, replace(rule, scope=OTHER_SCOPE[rule.scope]), *after)


def test_the_true_table_agrees_with_every_expectation():
    assert [expected for expected in EXPECTED if disagrees(expected)] == []


@pytest.mark.parametrize("index", range(len(RULES)), ids=lambda i: f"{i}-{RULES[i].code or RULES[i].type}")
def test_a_mutated_row_is_noticed(index, monkeypatch):
    for what, table in mutants(index):
        monkeypatch.setattr(classifier, "_RULES", table)
        assert any(disagrees(expected) for expected in EXPECTED), f"{RULES[index]} {what}, and nobody noticed"
