"""A text's values are counted as a decoder would make them, however it is cut, and no string hides or adds any."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai import value_count
from quotapool.openai.value_count import MOST_VALUES, ValueCount, has_too_many_values

STRINGS = st.text(st.sampled_from('a"\\,[{]}é\n'), max_size=12)
DOCUMENTS = st.recursive(
    STRINGS | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(STRINGS, inner, max_size=5),
    max_leaves=40,
)


def values_of(document: object) -> int:
    """Each array and object, and each of its members but the first: what `[`, `{` and `,` stand for."""
    if isinstance(document, dict):
        document = list(document.values())
    if not isinstance(document, list):
        return 0
    return max(1, len(document)) + sum(map(values_of, document))


@given(DOCUMENTS, st.lists(st.integers(1, 9), min_size=1), st.booleans())
def test_the_count_is_exact_outside_of_strings_in_whatever_pieces_a_text_comes(document, cuts, ascii_only):
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    many = values_of(document)
    for most in {0, many - 1, many, many + 1} - {-1}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(value_count, "MOST_VALUES", most)
            patch.setattr(value_count, "_WINDOW", cuts[0])
            count, come = ValueCount(), bytearray()
            for piece in pieces_of(text, cuts):
                count.add(piece)
                come += piece
                with memoryview(come) as view:
                    while count.step(view):
                        pass
            assert count.is_too_high == (many > most)


def pieces_of(text: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        for cut in cuts:
            yield text[at : at + cut]
            at += cut


@pytest.mark.parametrize(
    ("text", "is_too_many"),
    [
        (b'{"a":[' + b"1," * (MOST_VALUES - 1) + b'"' + b",[{" * 10**6 + b'"]}', True),
        (b'{"a":[' + b"1," * (MOST_VALUES - 2) + b'"' + b",[{" * 10**6 + b'"]}', False),
        (b'{"a":"' + b'\\",[' * 10**6 + b'"}', False),
        (b"[" * 10**6, True),
        (b'{"a":"' + b"," * 10**7, False),
        ('{"a":"' + "," * 10**6 + '"}', True),
        (b"[" + b"[] ," * (MOST_VALUES // 2), True),
    ],
    ids=["one too many", "as many as may be", "escaped quotes", "open", "no end", "utf-16", "hollow"],
)
def test_large_texts(text, is_too_many):
    assert has_too_many_values(text if isinstance(text, bytes) else text.encode("utf-16")) is is_too_many


def test_a_small_text_is_not_even_counted():
    assert not has_too_many_values(b"[" * value_count.SMALL)
