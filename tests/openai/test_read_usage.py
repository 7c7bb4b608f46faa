"""The usage that a complete JSON answer reports."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.openai.jsontext import locate
from quotapool.openai.session_events import read_event
from quotapool.openai.sse import StreamRelay
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


# --- what tools used, beside `usage` (openai-upstream.md §10: public captures of the image tool)

IMAGE_GEN = {
    "input_tokens": 27,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 27},
    "output_tokens": 7024,
    "output_tokens_details": {"image_tokens": 7024, "text_tokens": 0},
}
DRAWN = Usage(EXACT, 27, 7024, details=Details(image_completion=7024))
DRAWING = {
    "id": "resp_1",
    "model": "gpt-5.4",
    "output": [{"type": "image_generation_call", "result": "iVBORw0K"}],
    "service_tier": "default",
    "tool_usage": {"image_gen": IMAGE_GEN, "web_search": {"num_requests": 3}},
    "tools": [{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2", "size": "auto"}],
    "usage": {"input_tokens": 146, "output_tokens": 51},
}


def as_json(response):
    return read_usage(json.dumps(response).encode())


def as_stream(response):
    relay = StreamRelay("responses")
    relay.feed(b"data: " + json.dumps({"type": "response.completed", "response": response}).encode() + b"\n\n")
    return relay.usage


def as_socket_event(response):
    return read_event(json.dumps({"type": "response.completed", "response": response}).encode()).usage


def wrapped(response):
    done = {"type": "response.completed", "response": response}
    return read_event(json.dumps({"type": "response.event", "event": done}).encode()).usage


@pytest.mark.parametrize("read", [as_json, as_stream, as_socket_event, wrapped])
@pytest.mark.parametrize("order", [list(DRAWING), sorted(DRAWING), sorted(DRAWING, reverse=True)], ids=str)
@pytest.mark.parametrize("size", [0, 20_000])
def test_tokens_of_the_image_tool_are_those_of_the_model_that_drew(read, order, size):
    response = {name: DRAWING[name] for name in order}
    response["output"] = [{"type": "image_generation_call", "result": "A" * size}]
    expected = Usage(EXACT, 146, 51, details=Details(web_searches=3), by_tools=(("gpt-image-2", DRAWN),))
    seen = read(response)
    assert replace(seen, tier="") == expected
    assert seen.total == 146 + 51  # only these count against the limits of gpt-5.4


@pytest.mark.parametrize("read", [as_json, as_stream, as_socket_event])
@pytest.mark.parametrize(
    ("change", "by_tools"),
    [
        ({"tools": []}, (("", DRAWN),)),  # counted, and unpriced, rather than left out
        ({"tools": None}, (("", DRAWN),)),
        ({"tools": [{"type": "image_generation"}]}, (("", DRAWN),)),
        ({"tool_usage": {"image_gen": {"input_tokens": 0, "output_tokens": 0}}}, ()),
        ({"tool_usage": None}, ()),
        ({"tool_usage": {"image_gen": None, "web_search": {"num_requests": 0}}}, ()),
        ({"tool_usage": [IMAGE_GEN]}, ()),
        ({"tool_usage": {"image_gen": {"input_tokens": -5, "output_tokens": "many"}, "web_search": 4}}, ()),
        # A tool of tomorrow: named in both places alike.
        ({"tool_usage": {"painter": IMAGE_GEN}, "tools": [{"type": "painter", "model": "p-1"}]}, (("p-1", DRAWN),)),
    ],
)
def test_tools_that_used_nothing_or_name_no_model_are_read_as_what_they_are(read, change, by_tools):
    seen = read({**DRAWING, "tool_usage": {"image_gen": IMAGE_GEN}, **change})
    assert replace(seen, tier="") == Usage(EXACT, 146, 51, by_tools=by_tools)


def test_words_about_tools_in_the_answer_book_nothing():
    trick = '"tool_usage":{"image_gen":{"input_tokens":9,"output_tokens":9}},"tools":[]}' + "x" * 20_000
    plain = {"output": [{"content": trick}], "usage": {"input_tokens": 146, "output_tokens": 51}}
    assert as_json(plain) == as_stream(plain) == Usage(EXACT, 146, 51)
