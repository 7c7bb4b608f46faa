"""Names tell nothing and never meet; a seal opens only for the name and pool that it was made for, and unchanged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cache.secrets import NAME_BYTES, CacheSecrets, root_of
from quotapool.keys.seal import MasterKey

MASTER = MasterKey("a master key of at least 32 letters")
OURS = CacheSecrets.of(MASTER, "main")
NAME = b"n" * NAME_BYTES
TEXT = b'{"choices":[{"message":{"content":"a prompt and its answer"}}]}'
WORDS = st.tuples(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=6))


@given(WORDS, WORDS)
def test_two_requests_have_one_name_only_if_scope_endpoint_and_text_are_the_same(one, other):
    assert (OURS.name(*one) == OURS.name(*other)) == (one == other)
    assert len(OURS.name(*one)) == NAME_BYTES


def test_a_name_is_made_with_the_master_key_and_the_pool():
    others = [CacheSecrets.of(MASTER, "other"), CacheSecrets.of(MasterKey("b" * 32), "main")]
    names = {secrets.name("client:app", "chat", TEXT) for secrets in (OURS, *others)}
    assert len(names) == 3
    assert CacheSecrets.of(MASTER, "main").name("client:app", "chat", TEXT) in names


@given(st.binary(max_size=5000))
def test_what_was_sealed_is_opened(raw):
    assert OURS.open(NAME, OURS.seal(NAME, raw)) == raw


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 100_000, 8 * 2**20])
@pytest.mark.parametrize("content", [lambda size: b"a" * size, os.urandom], ids=["text", "noise"])
def test_of_any_size_and_whether_it_can_be_compressed_or_not(size, content):
    raw = content(size)
    sealed = OURS.seal(NAME, raw)
    assert OURS.open(NAME, sealed) == raw
    assert len(sealed) <= size + 41  # a byte for the layout, 12 each for salt and nonce, 16 for the tag


def test_long_texts_are_compressed_and_short_ones_are_not():
    assert len(OURS.seal(NAME, TEXT * 100)) < len(TEXT) * 10
    assert len(OURS.seal(NAME, TEXT)) == len(TEXT) + 41


def test_nothing_of_the_text_is_in_the_seal_and_no_two_seals_are_the_same():
    sealed = OURS.seal(NAME, TEXT)
    assert not any(TEXT[n : n + 6] in sealed for n in range(len(TEXT) - 6))
    assert sealed != OURS.seal(NAME, TEXT)


def test_a_seal_opens_for_no_other_name_pool_or_master_key():
    sealed = OURS.seal(NAME, TEXT)
    assert OURS.open(b"m" * NAME_BYTES, sealed) is None
    assert CacheSecrets.of(MASTER, "other").open(NAME, sealed) is None
    assert CacheSecrets.of(MasterKey("b" * 32), "main").open(NAME, sealed) is None


@pytest.mark.parametrize("raw", [TEXT, TEXT * 100], ids=["as it is", "compressed"])
def test_a_seal_that_was_changed_anywhere_does_not_open(raw):
    sealed = OURS.seal(NAME, raw)
    for n in range(len(sealed)):
        changed = bytearray(sealed)
        changed[n] ^= 1
        assert OURS.open(NAME, bytes(changed)) is None
    for n in range(len(sealed)):
        assert OURS.open(NAME, sealed[:n]) is None


def test_processes_seal_with_keys_of_their_own_and_open_each_others():
    processes = [CacheSecrets.of(MASTER, "main") for _ in range(300)]  # more than one remembers
    sealed = [each.seal(NAME, TEXT) for each in processes]
    assert len({text[1:13] for text in sealed}) == 300
    assert all(OURS.open(NAME, text) == TEXT for text in sealed * 2)
    assert len(OURS._known) <= 256
    assert OURS.seal(NAME, TEXT)[1:13] == OURS.seal(NAME, TEXT)[1:13]
    OURS._left = 0  # it has sealed a billion
    assert OURS.open(NAME, again := OURS.seal(NAME, TEXT)) == TEXT
    assert again[1:13] not in {text[1:13] for text in sealed}


@given(st.binary(max_size=200))
def test_what_nobody_sealed_does_not_open(raw):
    assert OURS.open(NAME, raw) is None


def test_the_other_versions_of_the_layout_do_not_open():
    sealed = OURS.seal(NAME, TEXT)
    assert [OURS.open(NAME, bytes((version,)) + sealed[1:]) for version in (0, 2, 3, 255)] == [None] * 4


def test_a_worker_gets_a_root_that_is_not_the_master_keys_own_secret():
    root = root_of(MASTER)
    assert CacheSecrets(root, "main").open(NAME, OURS.seal(NAME, TEXT)) == TEXT
    assert root != MASTER.derived("another purpose")
    assert root != MasterKey("b" * 32).derived("quotapool cache 1")
    with pytest.raises(ValueError, match="32 bytes"):
        CacheSecrets(root[:31], "main")


def test_what_threads_seal_at_the_same_time_can_all_be_opened():
    raw = os.urandom(60_000)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(100):
            secrets = CacheSecrets.of(MASTER, "main")
            sealed = list(threads.map(secrets.seal, [NAME] * 8, [raw] * 8))
            assert [secrets.open(NAME, each) for each in sealed] == [raw] * 8
