"""A request's `Cache-Control` is read as RFC 9111 has it, whatever else stands in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.head import Head
from quotapool.request.cache_control import NONE, CacheControl, cache_control


def read(*lines: str) -> CacheControl:
    return cache_control(Head([(b"Cache-Control", line.encode("latin-1")) for line in lines]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), NONE),
        (("",), NONE),
        (("no-store",), CacheControl(no_store=True)),
        (("No-Cache",), CacheControl(no_cache=True)),
        (("only-if-cached",), CacheControl(only_if_cached=True)),
        (("max-age=60",), CacheControl(max_age_s=60)),
        (("MAX-AGE=60",), CacheControl(max_age_s=60)),
        (('max-age="60"',), CacheControl(max_age_s=60)),
        (("max-age = 60",), CacheControl(max_age_s=60)),
        (("max-age=007",), CacheControl(max_age_s=7)),
        (("max-age=0",), CacheControl(max_age_s=0)),
        # a time that cannot be read is over already (RFC 9111 §4.2.1), one that is too long is 2**31 (§1.2.2)
        *(((line,), CacheControl(max_age_s=0)) for line in ("max-age", "max-age=", "max-age=-1", "max-age=1.5")),
        *(((line,), CacheControl(max_age_s=0)) for line in ("max-age=x", 'max-age="', "max-age=²", "max-age=1h")),
        (("max-age=2147483649",), CacheControl(max_age_s=2**31)),
        (("max-age=" + "9" * 900,), CacheControl(max_age_s=2**31)),
        # several directives, in one line or more
        (("no-store, max-age=5",), CacheControl(no_store=True, max_age_s=5)),
        (("no-store", "max-age=5,only-if-cached"), CacheControl(no_store=True, max_age_s=5, only_if_cached=True)),
        ((",, no-cache ,,",), CacheControl(no_cache=True)),
        (("max-age=60, max-age=5",), CacheControl(max_age_s=5)),
        (("max-age=5", "max-age=60"), CacheControl(max_age_s=5)),
        # arguments where none belong, unknown directives, and what only looks like one
        (('no-cache="a"',), CacheControl(no_cache=True)),
        (("max-stale, min-fresh=5, no-transform",), NONE),
        (('x="no-store, max-age=1", max-age=9',), CacheControl(max_age_s=9)),
        (('x="a\\", no-store", no-cache',), CacheControl(no_cache=True)),
        (('"no-store", no-cache',), CacheControl(no_cache=True)),
        (("x-no-store, no-stores, nostore",), NONE),
        (("no-store;q=1",), CacheControl(no_store=True)),
        (("=, ;, \x00, \xff=\xff",), NONE),
    ],
)
def test_it_is_read_as_the_rfc_has_it(lines, expected):
    assert read(*lines) == expected


def test_without_the_header_nothing_is_made():
    assert cache_control(Head([(b"Host", b"x")])) is NONE


def test_more_than_a_kilobyte_of_it_goes_without_the_cache():
    assert read("x" * 1010 + ", no-cache, max-age=9").no_store
    assert read(*["max-age=9"] * 200) == CacheControl(no_store=True, no_cache=True)


@pytest.mark.parametrize(
    ("line", "looks_up", "asks"),
    [
        ("", True, False),
        ("no-store", False, False),
        ("no-cache", False, False),
        ("max-age=0", False, False),
        ("max-age=1", True, True),
        ("only-if-cached", True, True),
        ("no-cache, only-if-cached", False, True),
    ],
)
def test_what_it_means_for_a_look_up(line, looks_up, asks):
    control = read(line)
    assert (control.looks_up, control.asks) == (looks_up, asks)


@given(st.lists(st.binary(max_size=400), max_size=4))
def test_no_bytes_raise(lines):
    cache_control(Head([(b"cache-control", line) for line in lines]))


@given(
    st.lists(
        st.sampled_from(["no-store", "no-cache", "only-if-cached", "x", 'y="1,no-store"', "z=q"])
        | st.integers(0, 2**31).map(lambda n: f"max-age={n}"),
        max_size=8,
    ),
    st.sampled_from([",", ", ", " , ", ",,"]),
)
def test_directives_are_found_in_any_order(directives, comma):
    ages = [int(one.removeprefix("max-age=")) for one in directives if one.startswith("max-age=")]
    assert read(comma.join(directives)) == CacheControl(
        "no-store" in directives, "no-cache" in directives, min(ages, default=None), "only-if-cached" in directives
    )
