"""The redactor promises that no secret of OpenAI's known shapes survives it, wherever it is in a text."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quotapool.domain.redact import REDACTED, mask

BASE64URL = string.ascii_letters + string.digits + "-_"
ALPHANUMERIC = string.ascii_letters + string.digits


def text_of(alphabet: str, size: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=size, max_size=size)


def modern(prefix: str) -> st.SearchStrategy[str]:
    half = st.sampled_from([58, 74]).flatmap(lambda size: text_of(BASE64URL, size))
    return st.builds(lambda left, right: f"{prefix}{left}T3BlbkFJ{right}", half, half)


# Shapes: facts on redaction, gitleaks' and trufflehog's OpenAI rules.
CANARIES = st.one_of(
    st.builds(
        lambda a, b: f"sk-{a}T3BlbkFJ{b}",
        text_of(ALPHANUMERIC, 20),
        text_of(ALPHANUMERIC, 20),
    ),
    *(modern(prefix) for prefix in ("sk-proj-", "sk-svcacct-", "sk-service-", "sk-admin-", "sk-None-")),
    text_of(ALPHANUMERIC, 40).map("sess-{}".format),
    text_of(BASE64URL, 32).map("ek_{}".format),
    text_of(ALPHANUMERIC + "+/", 44).map("whsec_{}".format),
    st.builds(
        lambda a, b, c: f"eyJ{a}.eyJ{b}.{c}", text_of(BASE64URL, 30), text_of(BASE64URL, 90), text_of(BASE64URL, 43)
    ),
    text_of(ALPHANUMERIC, 24).filter(lambda s: not s.islower()).map("org-{}".format),
    text_of(ALPHANUMERIC, 24).map("proj_{}".format),
)
# What may surround a secret: prose, JSON (escaped too), headers, URLs.
BEFORE = st.sampled_from(
    ["", " ", '"', "'", "\n", "\\n", "=", ":", "key", "Bearer ", "?api_key=", "%3A", "/", "(", "x_"]
)
AFTER = st.sampled_from(["", " ", '"', "'", "\n", "\\n", ". You can", ", next", "&x=1", ")", "\\", "}", ";", "]"])
PROSE = st.text(max_size=40)


@given(PROSE, BEFORE, CANARIES, AFTER, PROSE)
def test_no_secret_of_any_shape_survives(prose_before, before, canary, after, prose_after):
    body = canary[-12:]
    assume(body not in prose_before and body not in prose_after)
    masked = mask(prose_before + before + canary + after + prose_after)
    assert canary not in masked
    assert body not in masked


@given(st.lists(CANARIES, min_size=2, max_size=5), st.sampled_from([" ", ",", "\n", '","', "|"]))
def test_several_secrets_in_one_text_all_go(canaries, separator):
    masked = mask(separator.join(canaries))
    assert not [canary for canary in canaries if canary[-12:] in masked]


@given(CANARIES)
def test_masking_twice_changes_nothing_more(canary):
    once = mask(f"Authorization: Bearer {canary}.")
    assert mask(once) == once


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("Incorrect API key provided: sk-proj-****************MxYA. You can find your API key", "MxYA"),
        ("Incorrect API key provided: sk-abcd************************************WXYZ.", "WXYZ"),
        ("Incorrect API key provided: sk-proj-…MxYA.", "MxYA"),
        ("Incorrect API key provided: abcdef**********wxyz. You can", "wxyz"),
        ("Incorrect API key provided: hunter2. You can find", "hunter2"),
        ("Incorrect API key provided: my.dotted.secret. You can find", "dotted"),
        ('"redacted_value":"sk-abc...def"', "def"),
        ('"redacted_value":"sk-admin...xyz"', "xyz"),
        ("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.anything-at-all", "anything"),
        ("Authorization: Bearer 0123456789abcdef0123456789", "0123456789"),
        ("redis://:s3cret-pass@10.0.0.1:6379/0", "s3cret-pass"),
        ("rediss://user:s3cret-pass@redis.example:6380", "s3cret-pass"),
        ("Rate limit reached for gpt-4o in organization org-Ab3dEf6hIj9kLm2nOp5qRs8t on", "org-Ab3"),
        ("Project `proj_Ab3dEf6hIj9kLm2nOp5qRs8t` does not have access", "proj_Ab3"),
    ],
)
def test_echoes_of_a_key_and_account_ids_are_masked(text, leak):
    assert leak not in mask(text)
    assert REDACTED in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "The model `gpt-4o-mini` does not exist (or you do not have access to it)",
        "Rate limit reached on tokens per min (TPM): Limit 10000, Used 8554, Requested 3082.",
        "Please try again in 7m12s. Visit https://platform.openai.com/account/rate-limits to learn more.",
        "a risk-free, task-based, desk-top plan for a week_long org-wide event",
        "Use Authorization: Bearer followed by your key",
        "Missing scopes: model.request.",
        "",
    ],
)
def test_ordinary_words_stay_as_they_are(text):
    assert mask(text) == text


@pytest.mark.parametrize(
    "unit",
    ["sk-", "a", "sk-a", "*", "org-", "org-a", "eyJ", "eyJaaaaa.", "ek_", "://", "a-", "key provided: ", "sess-."],
)
def test_hostile_text_is_masked_in_linear_time(unit):
    # 400 kB: linear takes milliseconds, quadratic takes hours.
    text = unit * (400_000 // len(unit))
    began = time.process_time()
    mask(text)
    assert time.process_time() - began < 5
