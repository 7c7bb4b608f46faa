"""No bytes make a parser of foreign bytes raise what it does not document, or read a message differently in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.forms import FormError, FormReader, Part

from tests.fakes.parsers import ATOMS, PARSERS, PLACES, SEEDS

JUNK = st.lists(st.sampled_from(ATOMS) | st.binary(max_size=8), max_size=24).map(b"".join)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Junk in a place where it matters, or a message of everyday life with some of it replaced."""
    junk = draw(JUNK)
    if draw(st.booleans()):
        before, after = draw(st.sampled_from(PLACES))
        return before + junk + after
    seed = draw(st.sampled_from(SEEDS))
    at = draw(st.integers(0, len(seed)))
    return seed[:at] + junk + seed[at + draw(st.integers(0, 8)) :]


@pytest.mark.parametrize("name", PARSERS)
def test_no_bytes_raise(name):
    given(texts())(PARSERS[name])()


def read(form: bytes, size: int) -> list[Part] | None:
    reader, found = FormReader(b"b"), list[Part]()
    try:
        for at in range(0, len(form), size):
            found += reader.feed(form[at : at + size])
    except FormError:
        return None
    return found


@given(texts(), st.integers(1, 64))
def test_a_form_is_read_alike_in_pieces_of_any_size(form, size):
    assert read(form, size) == read(form, len(form) or 1)
