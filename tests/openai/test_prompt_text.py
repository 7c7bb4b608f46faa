"""What the model reads of a body, in its order; and requests for one embedding."""

from __future__ import annotations

import json

import pytest
from quotapool.openai.prompt_text import is_single_input, prompt_text


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("chat", b'{"messages": [1, 2], "model": "m", "tools": [3]}', b"[3][1, 2]"),
        ("chat", b'{"response_format": {"a": 1}, "messages": []}', b'{"a": 1}[]'),
        ("responses", b'{"input": "words", "instructions": "first", "tools": [1]}', b'[1]"first""words"'),
        ("completions", b'{"prompt": ["a"]}', b'["a"]'),
        ("chat", b'{"model": "m"}', b""),
        ("chat", b"[]", b""),
        ("chat", b"{", b""),
        ("chat", b'{"messages": ["\\ud83d"]}', b'["?"]'),  # half an emoji, which OpenAI may accept
    ],
)
def test_the_prompt_is_in_the_order_in_which_it_is_read(kind, body, text):
    assert prompt_text(kind, body) == text


def test_where_a_body_has_its_members_makes_no_difference():
    one = {"model": "m", "instructions": "same", "input": [{"role": "user", "content": "a"}]}
    other = dict(reversed(one.items()))
    assert prompt_text("responses", json.dumps(one).encode()) == prompt_text("responses", json.dumps(other).encode())


@pytest.mark.parametrize(
    ("given", "single"),
    [
        ("words", True),
        (["words"], True),
        (["two", "words"], False),
        ([1, 2, 3], True),
        ([[1, 2, 3]], True),
        ([[1], [2]], False),
        ([], False),
        (None, False),
        (7, False),
        ({}, False),
    ],
)
def test_one_input_is_told_from_many(given, single):
    assert is_single_input(json.dumps({"model": "m", "input": given}).encode()) is single


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m"}', b'{"input": ["a"'])
def test_what_cannot_be_read_is_none(body):
    assert not is_single_input(body)
