"""The usage that a complete JSON answer reports."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.openai.jsontext import locate
from quotapool.openai.usage import UNREPORTED, answering_model, read_usage

CHAT = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 60},
    "total_tokens": 123,
}
EXACT = Certainty.EXACT

SHAPES = [
    (CHAT, Usage(EXACT, 19, 10, 4, 3)),
    (RESPONSES, Usage(EXACT, 36, 87, 5, 60)),
    ({"prompt_tokens": 8, "total_tokens": 8}, Usage(EXACT, 8)),
    ({"prompt_tokens": 8, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(EXACT, 8, 2)),
    ({"input_tokens": 50, "output_tokens": 1056, "total_tokens": 1106,
      "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}},
     Usage(EXACT, 50, 1056, details=Details(image_prompt=40))),
    ({"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
      "output_tokens": 45, "total_tokens": 59}, Usage(EXACT, 14, 45, details=Details(audio_prompt=14))),
    ({"input_tokens": 9, "input_token_details": {"cached_tokens": 6}, "output_tokens": 1}, Usage(EXACT, 9, 1, 6)),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(EXACT)),
    ({"type": "duration", "seconds": 9}, Usage(EXACT, details=Details(seconds=9.0))),
    ({"type": "duration", "seconds": -9}, UNREPORTED),
    ({"type": "duration", "seconds": "9"}, UNREPORTED),
    # Chat with audio both ways, and a prompt that was written to the cache.
    ({"prompt_tokens": 100, "completion_tokens": 50,
      "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 30, "audio_tokens": 40},
      "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 20}},
     Usage(EXACT, 100, 50, 10, 5, Details(cache_write=30, audio_prompt=40, audio_completion=20))),
    # Realtime's `response.done`, after the API reference's own example.
    ({"total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
      "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "image_tokens": 0, "cached_tokens": 64,
                              "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4, "image_tokens": 0}},
      "output_token_details": {"text_tokens": 30, "audio_tokens": 91}},
     Usage(EXACT, 132, 121, 64, 0, Details(audio_prompt=13, audio_completion=91, cached_audio=4))),
    # `speech.audio.done` tells no parts.
    ({"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}, Usage(EXACT, 14, 101)),
    ({}, UNREPORTED),
    (None, UNREPORTED),
    ("many", UNREPORTED),
    ([CHAT], UNREPORTED),
    ({"prompt_tokens": "19", "completion_tokens": None}, UNREPORTED),
    # Look-alike upstreams that count a part above its whole.
    ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9},
      "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(EXACT, 5, 2, 5, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("reported", "expected"), SHAPES)
@pytest.mark.parametrize("text", ["Hi", "x" * 50_000], ids=["short", "long"])
@pytest.mark.parametrize("tail", [{}, {"service_tier": "default", "metadata": {"usage": "{}"}}], ids=["last", "middle"])
def test_usage_is_read_in_every_shape_wherever_it_is(reported, expected, text, tail):
    answer = json.dumps({"id": "x", "output": [{"content": text}], "usage": reported, **tail}).encode()
    seen = read_usage(answer)
    assert replace(seen, tier="") == expected
    # The tier that answered is reported with the usage that it prices.
    assert seen.tier == ("default" if tail and expected.certainty is EXACT else "")


@pytest.mark.parametrize("size", [0, 20_000], ids=["short", "long"])
def test_the_tier_that_answered_is_read_before_usage_and_after_it(size):
    responses = {
        "output": [{"content": "x" * size}],
        "service_tier": "flex",
        "tools": [],
        "usage": RESPONSES,
        "user": None,
    }
    chat = {"choices": [{"message": {"content": "x" * size}}], "usage": CHAT, "service_tier": "priority"}
    assert read_usage(json.dumps(responses, indent=2).encode()).tier == "flex"
    assert read_usage(json.dumps(chat, indent=2).encode()).tier == "priority"
    # "auto" is what was asked for, and words of the model are no tier.
    assert read_usage(json.dumps({**chat, "service_tier": "auto"}).encode()).tier == ""
    trick = {"choices": [{"message": {"content": '"service_tier":"flex"}' + "x" * size}}], "usage": RESPONSES}
    assert read_usage(json.dumps(trick).encode()).tier == ""


@pytest.mark.parametrize("size", [0, 20_000])
def test_words_about_usage_in_the_answer_count_nothing(size):
    trick = '"usage":{"prompt_tokens":999,"completion_tokens":999}}' + "x" * size
    answer = {
        "usage": CHAT,
        "choices": [{"message": {"content": trick}, "usage": RESPONSES}],
        "metadata": {"usage": RESPONSES, "a": trick},
    }
    assert read_usage(json.dumps(answer).encode()) == Usage(EXACT, 19, 10, 4, 3)
    del answer["usage"]
    assert read_usage(json.dumps(answer).encode()) == UNREPORTED


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b"null", b"<html>", b'{"a":' * 100_000, b'{"usage":' + b"[" * 100_000, b"\xff" * 9000]
)
def test_an_answer_that_cannot_be_read_reports_nothing(answer):
    assert read_usage(answer) == UNREPORTED
    assert UNREPORTED.certainty is Certainty.AT_LEAST


values = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["usage", '"usage":null', "}", '\\"usage', "é"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["usage", "a", '"usage', "{"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["usage", "a", "b", '"usage', "x}"]), values),
    st.sampled_from([(",", ":"), (" , ", " : "), (",\r\n", ":\n")]),
)
def test_a_member_is_found_at_the_top_and_only_there(obj, separators):
    text = json.dumps(obj, separators=separators).encode()
    at = locate(text, b'"usage"')
    if text.count(b'"usage"') > 8:
        return
    assert (at >= 0) == ("usage" in obj)
    if at >= 0:
        head, tail = text[:at], text[at:]
        assert json.loads(b"{" + tail)["usage"] == obj["usage"]
        names = list(obj)
        assert list(json.loads(head.rstrip(b" ,\r\n") + b"}")) == names[: names.index("usage")]


def test_an_answer_says_which_model_it_came_from():
    assert answering_model(b'{"id":"resp_1","model":"gpt-4o-2024-08-06"}') == "gpt-4o-2024-08-06"
    assert answering_model(b'{"type":"response.completed","response":{"model":"gpt-4o"}}') == "gpt-4o"
    for silent in (b"", b"{}", b'{"model":7}', b'{"response":{"model":null}}', b'{"response":"gpt-4o"}', b"[]", b"no"):
        assert answering_model(silent) == ""
