"""A relayed stream: the client's bytes are right at any split, and what matters is seen while they pass."""

import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from quotapool.domain.quantities import Certainty, Usage
from quotapool.openai import sse
from quotapool.openai.skimmed import SkimmedJson
from quotapool.openai.sse import StreamRelay

USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 9,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
EXACT = Usage(Certainty.EXACT, 17, 9, 5, 2)
COMPACT = (",", ":")
SPACED = (", ", ": ")
TRICKS = [
    "Hello",
    "",
    '"usage":null',
    ',"usage":null}',
    '"usage":null}\n\n',
    '\\","usage":null}',
    '"error"',
    "data: [DONE]\n\n",
    "response.failed",
    '{"error":{"message":"no"}}',
    "}}}",
    "\\",
    "é🙂\u2028",
    '"choices":[],"usage":{"prompt_tokens":1}',
]


def event(data, separators=COMPACT):
    return b"data: " + json.dumps(data, separators=separators).encode() + b"\n\n"


def chunk(delta, finish=None, **more):
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }


ROLE = event(chunk({"role": "assistant", "content": "", "refusal": None}))
HELLO = event(chunk({"content": "Hello"}))
STOP = event(chunk({}, "stop"))
TOLD = event({"id": "chatcmpl-1", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


def typed(kind, **more):
    return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": 1, **more})


CREATED = typed("response.created", response={"id": "resp_1", "status": "in_progress", "error": None, "usage": None})
WORD = typed("response.output_text.delta", item_id="msg_1", delta="Hi", logprobs=[])
R_USAGE = {
    "input_tokens": 17,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 2},
}


def pieces(stream, cuts):
    edges = [0, *sorted(c % (len(stream) + 1) for c in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def through(relay, parts):
    return b"".join([relay.feed(part) for part in parts]) + relay.finish()


# --- relaying untouched -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        ("chat", b": hi\r\n\r\n" + ROLE + HELLO + STOP.replace(b"\n", b"\r\n") + TOLD + DONE),
        ("responses", CREATED + WORD + typed("response.completed", response={"usage": R_USAGE})),
    ],
)
def test_split_anywhere_the_bytes_pass_untouched_and_the_same_is_seen(dialect, stream):
    for at in range(len(stream) + 1):
        relay = StreamRelay(dialect)
        for part in (stream[:at], stream[at:]):
            assert relay.feed(part) is part
        assert relay.finish() == b""
        assert relay.usage == EXACT
        assert relay.committed
        assert relay.complete
        assert relay.error is None


@given(st.binary(), st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from(["chat", "responses"]))
def test_bytes_that_are_not_a_stream_at_all_pass_too(noise, cuts, dialect):
    relay = StreamRelay(dialect)
    assert through(relay, pieces(noise, cuts)) == noise


@given(st.binary(), st.lists(st.integers(0, 10**6), max_size=8))
def test_stripping_finds_nothing_to_cut_in_bytes_that_are_not_a_stream(noise, cuts):
    assert through(StreamRelay("chat", strip_usage=True), pieces(noise, cuts)) == noise


# --- stripping the usage that the client never asked for ----------------------------------------------------


@st.composite
def streams(draw):
    """(as the client would get it had nobody asked, the same with usage asked for): written by json.dumps."""
    separators = draw(st.sampled_from([COMPACT, SPACED]))
    ascii_only = draw(st.booleans())
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    plain, asked = [], []

    def write(out, data, before, after, indent):
        text = json.dumps(data, separators=separators, ensure_ascii=ascii_only, indent=indent)
        lines = [f"data: {line}" for line in text.split("\n")]
        out.append(newline.join([*before, *lines, *after, "", ""]))

    for _ in range(draw(st.integers(0, 5))):
        text = draw(st.sampled_from(TRICKS) | st.text(st.characters(exclude_categories=["Cs"])))
        delta = draw(st.sampled_from([{"content": text}, {"role": "assistant", "content": text}, {}]))
        data = chunk(delta, draw(st.sampled_from([None, "stop"])))
        if draw(st.booleans()):
            data["choices"][0]["usage"] = draw(st.sampled_from([None, USAGE]))
        if draw(st.booleans()):
            data["choices"] = []  # a content-filter chunk
        if draw(st.booleans()):
            data["obfuscation"] = draw(st.sampled_from(["aB3", '"usage":null', ""]))
        if draw(st.booleans()):
            data = draw(st.sampled_from([{}, {"extra": {"usage": None}}]))
        members = list(data.items())
        members.insert(draw(st.sampled_from([len(members), 0]) | st.integers(0, len(members))), ("usage", None))
        before, after, indent = [], [], None
        if draw(st.booleans()):
            before = draw(st.sampled_from([[], [': "usage":null}'], ["event: message", "id: 7"]]))
            after = draw(st.sampled_from([[], ["id: 8"], [':,"usage":null}']]))
            indent = draw(st.sampled_from([None, 1])) if data else None  # an empty object stays on its line
        write(plain, data, before, after, indent)
        write(asked, dict(members), before, after, indent)
        if draw(st.booleans()):
            comment = ": keep-alive" + newline * 2
            plain.append(comment)
            asked.append(comment)
    if draw(st.booleans()):
        more = draw(st.sampled_from([{}, {"obfuscation": "q"}]))
        write(asked, {"id": "chatcmpl-1", "choices": [], "usage": USAGE, **more}, [], [], None)
    end = draw(st.sampled_from([newline * 2, newline, ""]))
    return [("".join(s) + f"data: [DONE]{end}").encode() for s in (plain, asked)]


@given(streams(), st.lists(st.integers(0, 10**6), max_size=12))
def test_the_client_gets_the_bytes_of_a_stream_that_was_never_asked_for_usage(both, cuts):
    never_asked, asked = both
    assert through(StreamRelay("chat", strip_usage=True), pieces(asked, cuts)) == never_asked


def test_every_split_of_one_stream_strips_alike():
    with_null = [chunk({"content": t}, usage=None, obfuscation="x") for t in TRICKS]
    without = [chunk({"content": t}, obfuscation="x") for t in TRICKS]
    asked = b"".join(map(event, with_null)) + TOLD + DONE
    expected = b"".join(map(event, without)) + DONE
    for at in range(len(asked) + 1):
        relay = StreamRelay("chat", strip_usage=True)
        assert through(relay, (asked[:at], asked[at:])) == expected
        assert relay.usage == EXACT


@pytest.mark.parametrize("separators", [COMPACT, SPACED])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("deeper", [{"a": 1, "usage": None}, {"usage": None}, [1, {"a": "x", "usage": None}]])
def test_a_deeper_member_of_that_name_stays_wherever_the_top_one_is(deeper, place, newline, separators):
    data = chunk({"content": "x"}, extra=deeper)
    members = list(data.items())
    members.insert(place, ("usage", None))
    relay = StreamRelay("chat", strip_usage=True)
    relay.feed(HELLO)
    got = relay.feed(event(dict(members), separators).replace(b"\n", newline))
    assert got == event(data, separators).replace(b"\n", newline)
    never_asked = event(data, separators).replace(b"\n", newline)
    assert relay.feed(never_asked) == never_asked


def test_only_an_unfinished_event_is_held_back():
    relay = StreamRelay("chat", strip_usage=True)
    assert relay.feed(HELLO + HELLO[:-1]) == HELLO
    assert relay.feed(HELLO[-1:] + b": ping\n\n" + HELLO[:9]) == HELLO + b": ping\n\n"
    assert relay.finish() == HELLO[:9]


@pytest.mark.parametrize(("length", "stripped"), [(120_000, True), (5_000_000, False)])
def test_long_events_in_small_pieces_are_stripped_while_they_can_be_held(length, stripped):
    text = "x" * length
    asked = event(chunk({"content": text}, usage=None))
    parts = [asked[i : i + 4096] for i in range(0, len(asked), 4096)]
    relay = StreamRelay("chat", strip_usage=True)
    assert through(relay, parts) == (event(chunk({"content": text})) if stripped else asked)


@pytest.mark.parametrize("strip", [True, False])
def test_an_event_past_the_cap_passes_whole_and_the_rest_is_watched_and_stripped(strip):
    big = event(chunk({"content": "y" * 200_000}, usage=None))
    stream = HELLO + big + TOLD + DONE
    for size in (3, 100, 2000, 100_000, len(stream)):
        relay = StreamRelay("chat", strip_usage=strip)
        got = through(relay, [stream[i : i + size] for i in range(0, len(stream), size)])
        if size < 200_000:  # else it came whole, and nothing had to be held
            assert got == (HELLO + big + DONE if strip else stream)
        assert relay.usage == EXACT
        assert relay.committed
        assert relay.complete
        assert relay.error is None


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("piece", [b"x" * 65_536, b'","' * 21_845, b'"' + b"x" * 50_000 + b'",'], ids=len)
def test_of_an_event_without_end_a_bounded_part_is_held_and_the_rest_passes_as_it_comes(strip, piece):
    relay, passed, sent = StreamRelay("chat", strip_usage=strip), 0, len(b"data: ")
    relay.feed(b"data: ")
    tracemalloc.start()
    for _ in range(64):  # 4 MiB
        passed += len(relay.feed(piece))
        sent += len(piece)
        assert sent - passed <= sse._MOST_HELD + len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20


def image_event(kind, image, **more):
    call = {"type": "image_generation_call", "id": "ig_1", "result": image}
    return typed(kind, **({"response": {"id": "resp_1", "output": [call], **more}} if "response." in kind else more))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_the_usage_beside_an_image_of_20_mib_in_one_line_is_counted_in_bounded_memory(newline):
    """Codex and the playground draw by `responses`, and the whole picture comes in the last event's one line."""
    image = "iVBORw0KGgo+/" * (20 * 2**20 // 13)
    last = image_event("response.completed", image, usage=R_USAGE, service_tier="flex", status="completed")
    stream = (CREATED + WORD + last).replace(b"\n", newline)
    relay = StreamRelay("responses")
    tracemalloc.start()
    for at in range(0, len(stream), 65_536):
        part = stream[at : at + 65_536]
        assert relay.feed(part) is part or relay.feed(b"") == b""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert relay.finish() == b""
    assert (relay.usage, relay.complete, relay.error) == (replace(EXACT, tier="flex"), True, None)
    assert relay.object_id == "resp_1"
    assert json.loads(relay.last)["response"]["output"][0] == {
        "type": "image_generation_call", "id": "ig_1", "result": "",
    }  # fmt: skip
    assert peak < 4 * 2**20


def test_the_images_own_stream_counts_too_and_an_error_behind_a_long_line_is_seen():
    drawn = event({"type": "image_generation.completed", "b64_json": "A" * 3_000_000, "usage": R_USAGE})
    relay = StreamRelay("responses")
    assert through(relay, pieces(drawn, range(0, len(drawn), 50_000))) == drawn
    assert (relay.usage, relay.complete) == (EXACT, True)
    failed = typed("error", error={"code": "server_error", "message": "no"})
    partial = event({"type": "image_generation.partial_image", "b64_json": "A" * 3_000_000})
    relay = StreamRelay("responses")
    through(relay, pieces(partial + failed, range(0, len(partial), 50_000)))
    assert json.loads(relay.error)["error"]["code"] == "server_error"


LONG_STRINGS = st.text(st.sampled_from('"\\\n/aé') | st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    st.recursive(
        LONG_STRINGS | st.none() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(LONG_STRINGS, inner),
    ),
    st.lists(st.integers(0, 10**6), max_size=8),
    st.booleans(),
)
def test_json_without_its_long_strings_is_the_same_json_at_any_split(value, cuts, ascii_only):
    def short(found):
        if isinstance(found, str):
            return "" if len(json.dumps(found, ensure_ascii=ascii_only).encode()) - 2 > 10 else found
        if isinstance(found, list):
            return [short(item) for item in found]
        return [[short(n), short(v)] for n, v in found.items()] if isinstance(found, dict) else found

    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    skimmed = SkimmedJson(10**9, 10)
    for part in pieces(text, cuts):
        skimmed.feed(part)
    assert json.loads(skimmed.kept, object_pairs_hook=lambda pairs: [list(p) for p in pairs]) == short(value)


def test_the_responses_dialect_has_nothing_to_strip():
    done = typed("response.completed", usage=None, response={"usage": R_USAGE})
    assert through(StreamRelay("responses", strip_usage=True), [done]) == done


def test_usage_on_a_chunk_that_carries_content_stays_with_it():
    both = event(chunk({"content": "Hi"}, "stop", usage=USAGE))
    relay = StreamRelay("chat", strip_usage=True)
    assert relay.feed(both) == both
    assert relay.usage == Usage(Certainty.AT_LEAST, 17, 9, 5, 2)  # may be a running count
    relay.feed(DONE)
    assert relay.usage == EXACT


# --- the point of no return ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "first"),
    [
        ("chat", b": keep-alive\n\n"),
        ("chat", b"event: ping\nid: 3\nretry: 10\n\n"),
        ("chat", ROLE),
        ("chat", event(chunk({"role": "assistant"}))),
        ("chat", event(chunk({"content": ""}))),
        ("chat", event(chunk({"role": "assistant", "content": None, "tool_calls": []}))),
        ("chat", event({"choices": [], "prompt_filter_results": [{"index": 0}], "usage": None})),
        ("chat", event({"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": None}]})),
        ("responses", CREATED),
        ("responses", typed("response.queued", response={})),
        ("responses", typed("response.in_progress", response={})),
        ("responses", typed("keepalive")),
        ("responses", b": open\n\n"),
    ],
)
def test_a_preamble_commits_to_nothing(dialect, first):
    relay = StreamRelay(dialect)
    relay.feed(first)
    assert not relay.committed
    assert relay.usage == Usage(Certainty.AT_LEAST)
    relay.feed(HELLO if dialect == "chat" else WORD)
    assert relay.committed
    assert relay.usage == Usage(Certainty.AT_LEAST, completion=1)


@pytest.mark.parametrize(
    ("dialect", "first"),
    [
        ("chat", HELLO),
        ("chat", STOP),
        ("chat", event(chunk({"role": "assistant", "content": "H"}))),
        ("chat", event(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}))),
        ("chat", event(chunk({"refusal": "I"}))),
        ("chat", event({"choices": [{"index": 0, "text": "x"}]})),
        ("chat", TOLD),
        ("chat", DONE),
        ("chat", b"data: not json\n\n"),
        ("chat", event({"unknown": 1})),
        ("chat", event([1])),
        ("responses", WORD),
        ("responses", typed("response.output_item.added", item={"type": "message"})),
        ("responses", typed("response.completed", response={"usage": R_USAGE})),
        ("responses", typed("response.something.new")),
        ("responses", event({"type": ["response.created"]})),
    ],
)
def test_anything_else_is_the_point_of_no_return(dialect, first):
    relay = StreamRelay(dialect)
    relay.feed(first[:-1])
    assert not relay.committed
    relay.feed(first[-1:])
    assert relay.committed
    assert relay.error is None


# --- errors under HTTP 200 ----------------------------------------------------------------------------------

LIMIT = {"message": "Rate limit reached", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}


@pytest.mark.parametrize(
    ("dialect", "failure"),
    [
        ("chat", event({"error": LIMIT})),
        ("chat", event({"error": LIMIT}, SPACED)),
        ("chat", event({"error": LIMIT}).replace(b"\n", b"\r\n")),
        ("chat", b"event: error\n" + event({"error": LIMIT})),
        ("chat", b"event: error\n" + event(LIMIT)),
        ("chat", event({"error": "overloaded"})),
        ("responses", event({"type": "error", "code": "rate_limit_exceeded", "message": "m", "param": None})),
        ("responses", typed("error", code="server_error", message="m")),
        ("responses", typed("error", error=LIMIT)),
        ("responses", typed("response.failed", response={"error": {"code": "server_error"}, "usage": None})),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_error_is_seen_before_and_after_the_point_of_no_return(dialect, failure, after):
    relay = StreamRelay(dialect)
    relay.feed(ROLE if dialect == "chat" else CREATED)
    if after:
        relay.feed(HELLO if dialect == "chat" else WORD)
    relay.feed(failure)
    assert json.loads(relay.error) == json.loads(failure.split(b"data: ")[1])
    relay.feed(DONE)
    assert relay.committed is after  # an error that comes first can still move to another key


def test_the_first_error_is_the_one_that_counts():
    relay = StreamRelay("responses")
    relay.feed(typed("error", code="first") + typed("response.failed", response={"error": {"code": "second"}}))
    assert json.loads(relay.error)["code"] == "first"
    assert relay.complete


@pytest.mark.parametrize("text", TRICKS)
@pytest.mark.parametrize("separators", [COMPACT, SPACED])
def test_words_of_the_model_decide_nothing(text, separators):
    chat, responses = StreamRelay("chat"), StreamRelay("responses")
    chat.feed(HELLO)
    responses.feed(WORD)
    chat.feed(event(chunk({"content": text}), separators))
    responses.feed(event({"type": "response.output_text.delta", "delta": text}, separators))
    for relay in (chat, responses):
        assert relay.error is None
        assert not relay.complete
        assert relay.usage == Usage(Certainty.AT_LEAST, completion=2 if text else 1)


def test_a_null_error_is_no_error():
    relay = StreamRelay("chat")
    relay.feed(event(chunk({"content": "x"}, error=None)))
    assert relay.error is None
    assert relay.committed


# --- usage and the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_a_terminal_event_brings_exact_usage_and_the_end(kind):
    relay = StreamRelay("responses")
    relay.feed(CREATED + WORD)
    assert not relay.complete
    relay.feed(typed(kind, response={"id": "resp_1", "output": [{"usage": None}], "usage": R_USAGE}))
    assert relay.usage == EXACT
    assert relay.complete


def test_a_terminal_event_without_usage_ends_without_certainty():
    relay = StreamRelay("responses")
    relay.feed(WORD + typed("response.completed", response={"usage": None}))
    assert relay.complete
    assert relay.usage == Usage(Certainty.AT_LEAST, completion=1)


@pytest.mark.parametrize("separators", [COMPACT, SPACED])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_cut_stream_used_at_least_a_token_for_each_delta(separators, batch):
    said = [chunk({"content": "a"}), chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]})]
    silent = [{"role": "assistant", "content": ""}, {"role": "assistant"}, {"role": "assistant", "content": None}]
    events = [ROLE, HELLO, *[event(chunk(delta), separators) for delta in silent]]
    events += [event(data, separators) for data in said] + [event(chunk({"content": ""}), separators), STOP]
    relay = StreamRelay("chat")
    for i in range(0, len(events), batch):
        relay.feed(b"".join(events[i : i + batch]))
    assert relay.usage == Usage(Certainty.AT_LEAST, completion=3)
    assert not relay.complete


@pytest.mark.parametrize("separators", [COMPACT, SPACED])
def test_legacy_completions_are_counted_and_stripped_like_chat(separators):
    def text(words, **more):
        choice = {"text": words, "index": 0, "logprobs": None, "finish_reason": None}
        return event({"object": "text_completion", "choices": [choice], **more}, separators)

    relay = StreamRelay("chat", strip_usage=True)
    got = b"".join([relay.feed(text(words, usage=None)) for words in ("a", "b", "", "c")])
    assert got == b"".join([text(words) for words in ("a", "b", "", "c")])
    assert relay.usage == Usage(Certainty.AT_LEAST, completion=3)
    assert relay.feed(TOLD + DONE) == DONE
    assert relay.usage == EXACT


def test_an_end_without_its_blank_line_is_still_an_end():
    relay = StreamRelay("chat", strip_usage=True)
    assert relay.feed(HELLO + TOLD + b"data: [DONE]") == HELLO
    assert relay.finish() == b"data: [DONE]"
    assert relay.complete


def test_the_tier_is_the_one_reported_last_and_never_what_was_asked_for():
    relay = StreamRelay("responses")
    relay.feed(event({"type": "response.created", "response": {"service_tier": "auto"}}))
    assert relay.usage.tier == ""
    relay.feed(event({"type": "response.in_progress", "response": {"service_tier": "priority"}}))
    relay.feed(event({"type": "response.output_text.delta", "delta": '"service_tier":"flex"'}))
    assert (relay.usage.certainty, relay.usage.tier) == (Certainty.AT_LEAST, "priority")
    relay.feed(event({"type": "response.completed", "response": {"service_tier": "default", "usage": USAGE}}))
    assert relay.usage == replace(EXACT, tier="default")
