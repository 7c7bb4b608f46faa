"""What the proxy knows about a request before sending it: model, stream, cost, ties to an account."""

import json
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.quantities import Cost
from quotapool.openai.requests import InvalidRequest, inject_include_usage, peek_model, read_request

KINDS = ("chat", "completions", "responses", "embeddings")


def body(**fields):
    return json.dumps({"model": "gpt-4o-mini", **fields}).encode()


def tokens(kind, **fields):
    return read_request(kind, body(**fields), default_output=16).cost.tokens


def user(content):
    return [{"role": "user", "content": content}]


# OpenAI's rate-limits guide: the larger of the output asked for and a quarter of the characters.
@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("chat", {"messages": user("x" * 400), "max_tokens": 50}, 100),
        ("chat", {"messages": user("x" * 401), "max_tokens": 50}, 101),
        ("chat", {"messages": user("x" * 400), "max_tokens": 500}, 500),
        ("chat", {"messages": user("x" * 400), "max_completion_tokens": 500}, 500),
        ("chat", {"messages": user("x"), "max_completion_tokens": 500, "n": 3}, 1500),
        ("chat", {"messages": user("x")}, 16),
        ("chat", {"messages": user("x"), "n": 4}, 64),
        ("chat", {"messages": user("é" * 400)}, 100),
        ("chat", {"messages": user("🙂" * 400)}, 100),
        ("chat", {"messages": user([{"type": "text", "text": "x" * 200}] * 2)}, 100),
        ("chat", {"messages": user("x" * 40), "prediction": {"type": "content", "content": "x" * 400}}, 110),
        ("responses", {"input": "x" * 400}, 100),
        ("responses", {"input": "x" * 400, "instructions": "y" * 400}, 200),
        ("responses", {"input": user([{"type": "input_text", "text": "x" * 400}])}, 100),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c" * 99, "output": "x" * 400}]}, 100),
        ("responses", {"input": "x", "max_output_tokens": 900}, 900),
        ("completions", {"prompt": "x" * 400}, 100),
        ("completions", {"prompt": "x", "max_tokens": 7}, 7),
        ("completions", {"prompt": "x"}, 16),
        ("completions", {"prompt": "x", "max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ("completions", {"prompt": ["x" * 400, "x" * 400], "max_tokens": 10}, 200),
        ("completions", {"prompt": ["x", "y", "z"], "max_tokens": 10}, 30),
        ("completions", {"prompt": [1, 2, 3] * 100, "max_tokens": 10}, 300),
        ("completions", {"prompt": [[1, 2, 3] * 100, [4] * 50], "max_tokens": 10}, 350),
        ("embeddings", {"input": "x" * 400}, 100),
        ("embeddings", {"input": ["x" * 400, "y" * 4]}, 101),
        ("embeddings", {"input": [5] * 77}, 77),
        ("embeddings", {"input": [[5] * 77, [6] * 3]}, 80),
    ],
)
def test_a_request_costs_what_openai_counts_at_admission(kind, fields, expected):
    assert tokens(kind, **fields) == expected
    assert read_request(kind, body(**fields)).cost == Cost(requests=1, tokens=expected, images=0)


def test_the_caller_chooses_what_an_unlimited_answer_reserves():
    assert read_request("chat", body(messages=user("x")), default_output=700).cost.tokens == 700


DATA = "A" * 100_000


@pytest.mark.parametrize(
    ("kind", "field", "parts"),
    [
        ("chat", "messages", [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + DATA}}]),
        ("chat", "messages", [{"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}]),
        ("chat", "messages", [{"type": "file", "file": {"file_data": DATA}}]),
        ("responses", "input", [{"type": "input_image", "image_url": "data:image/png;base64," + DATA}]),
        ("responses", "input", [{"type": "input_file", "file_data": DATA}]),
    ],
)
def test_pictures_sound_and_files_are_not_counted_as_words(kind, field, parts):
    assert tokens(kind, **{field: user([*parts, {"type": "text", "text": "x" * 400}])}) == 100


def test_screenshots_and_encrypted_reasoning_are_not_words_either():
    items = [
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": DATA}},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x" * 400}], "encrypted_content": DATA},
        {"type": "image_generation_call", "result": DATA},
    ]
    assert tokens("responses", input=items) == 100


def test_tools_and_schemas_count_with_the_characters_of_their_json():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"d": "x" * 1000}}}]
    length = len(json.dumps(tools))
    assert tokens("chat", messages=user("xx"), tools=tools) == -(-(length + 2) // 4)
    assert tokens("responses", input="xx", tools=tools) == -(-(length + 2) // 4)


def test_calls_that_the_model_made_before_count_as_words():
    call = {"id": "call_1", "type": "function", "function": {"name": "f" * 10, "arguments": "x" * 390}}
    assert tokens("chat", messages=[{"role": "assistant", "content": None, "tool_calls": [call]}]) == 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_must_be_named(kind):
    for missing in (b"{}", b'{"model":null}', b'{"model":""}', b'{"model":7}'):
        if kind == "responses" and b"7" not in missing:  # OpenAI's specification does not require it there
            assert read_request(kind, missing).model == ""
            continue
        with pytest.raises(InvalidRequest, match="model") as refused:
            read_request(kind, missing)
        assert refused.value.param == "model"


def test_a_stored_prompt_takes_the_place_of_the_model_that_it_chooses():
    alone = read_request("responses", b'{"prompt":{"id":"pmpt_1","variables":{"name":"Ada"}},"max_output_tokens":100}')
    assert (alone.model, alone.prompt, alone.cost.tokens) == ("pmpt_1", "pmpt_1", 100)
    named = read_request("responses", b'{"model":"gpt-4o","prompt":{"id":"pmpt_1"}}')
    assert (named.model, named.prompt) == ("gpt-4o", "pmpt_1")


@pytest.mark.parametrize("prompt", ["null", '""', '"pmpt_1"', "{}", '{"id":null}', '{"id":""}', '{"id":7}', "[]"])
def test_what_names_no_stored_prompt_does_not_replace_the_model(prompt):
    assert read_request("responses", b'{"prompt":%s}' % prompt.encode()).model == ""
    assert read_request("responses", b'{"model":"gpt-4o","prompt":%s}' % prompt.encode()).prompt == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "broken", [b"", b"{", b"[]", b'"text"', b"null", b'{"model":"m",}', b'{"model":"m"} x', b"\xff\xfe{", b"{'a':1}"]
)
def test_what_is_not_a_json_object_is_refused_in_words(kind, broken):
    with pytest.raises(InvalidRequest) as refused:
        read_request(kind, broken)
    assert str(refused.value)
    assert refused.value.param == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["messages", "input", "prompt", "metadata"])
def test_a_bottomless_body_is_refused_and_crashes_nothing(kind, field):
    deep = b'{"model":"m","' + field.encode() + b'":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(InvalidRequest, match="deep"):
        read_request(kind, deep)
    assert peek_model(deep) == ("", False, 1)
    assert inject_include_usage(deep) is deep


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    *("stream", "stream_options", "n", "store", "service_tier", "prompt_cache_key", "user", "messages", "tools"),
    *("max_completion_tokens", "max_tokens", "prediction", "functions", "response_format", "input", "instructions"),
    *("max_output_tokens", "background", "conversation", "previous_response_id", "text", "prompt", "suffix", "best_of"),
]


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_optional_fields_of_any_type_are_left_to_upstream(kind, fields):
    facts = read_request(kind, body(**fields))
    assert facts.model == "gpt-4o-mini"
    assert 0 <= facts.cost.tokens <= 2**53 - 1


def test_half_an_emoji_is_left_to_upstream():
    cut = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 399 + b'\\ud83d"}],"temperature":1e999}'
    assert read_request("chat", cut).cost.tokens == 100
    assert peek_model(cut) == ("m", False, 1)


@pytest.mark.parametrize("flag", ["yes", 1, {}, "true"])
def test_a_maximum_of_a_wrong_type_reserves_the_default(flag):
    assert tokens("chat", messages=user("x"), max_tokens=flag if flag != 1 else -1, n=[]) == 16


def test_streaming_and_asking_for_usage_are_distinguished():
    plain = read_request("chat", body(stream=True))
    asked = read_request("chat", body(stream=True, stream_options={"include_usage": True}))
    refused = read_request("chat", body(stream=True, stream_options={"include_usage": False}))
    assert [(f.stream, f.asked_usage) for f in (plain, asked, refused)] == [(True, False), (True, True), (True, False)]
    assert not read_request("chat", body()).stream


@pytest.mark.parametrize(
    ("fields", "stateful"),
    [
        ({}, False),
        ({"store": True}, False),
        ({"previous_response_id": "resp_1"}, False),
        ({"background": False, "conversation": None}, False),
        ({"background": True}, True),
        ({"background": "yes"}, True),
        ({"conversation": "conv_1"}, True),
        ({"conversation": {"id": "conv_1"}}, True),
    ],
)
def test_background_and_conversations_make_a_response_stateful(fields, stateful):
    assert read_request("responses", body(input="x", **fields)).stateful is stateful


def test_the_hints_that_routing_needs_are_read():
    facts = read_request(
        "responses",
        body(
            store=False,
            service_tier="flex",
            prompt_cache_key="k",
        ),
    )
    assert facts.store is False
    assert (facts.service_tier, facts.prompt_cache_key) == ("flex", "k")
    assert read_request("responses", body(store="no", user=5, conversation="conv_2")).store is None


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b'{"model":"tts-1","input":"x"}', ("tts-1", False)),
        (b'{"stream":true,"model":"gpt-image-1"}', ("gpt-image-1", True)),
        (b'{"model":5,"stream":"true"}', ("", False)),
        (b"[]", ("", False)),
        (b"--boundary", ("", False)),
        (b"", ("", False)),
    ],
)
def test_a_model_can_be_peeked_from_any_body(sent, seen):
    assert peek_model(sent)[:2] == seen


@pytest.mark.parametrize(
    ("sent", "count"),
    [(b'{"model": "gpt-image-1", "n": 4}', 4), (b'{"model": "gpt-image-1"}', 1), (b'{"n": "many"}', 1), (b"[]", 1)],
)
def test_the_number_of_images_is_read_and_is_one_by_default(sent, count):
    assert peek_model(sent)[2] == count


ASK = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        (b'{"model":"m"}', b'{"model":"m",' + ASK + b"}"),
        (b'{ "model" : "m" }\r\n', b'{ "model" : "m" ,' + ASK + b"}\r\n"),
        (b"{}", b"{" + ASK + b"}"),
        (b" {\n} ", b" {\n" + ASK + b"} "),
        (b'{"a":"}"}', b'{"a":"}",' + ASK + b"}"),
        (b'{"stream_options":null,"a":1}', b"{" + ASK + b',"a":1}'),
        (b'{"stream_options": {} ,"a":1}', b'{"stream_options": {"include_usage":true} ,"a":1}'),
        (
            b'{"stream_options":{"include_obfuscation":false}}',
            b'{"stream_options":{"include_obfuscation":false,"include_usage":true}}',
        ),
        (
            b'{"stream_options":{"include_usage" : false, "include_obfuscation":false}, "n":1}',
            b'{"stream_options":{"include_usage" : true, "include_obfuscation":false}, "n":1}',
        ),
        (b'{"stream_options":{"include_usage":null}}', b'{"stream_options":{"include_usage":true}}'),
        # The last of several namesakes is the one that counts.
        (
            b'{"stream_options":{"include_usage":true},"stream_options":null}',
            b'{"stream_options":{"include_usage":true},' + ASK + b"}",
        ),
        # The same words deeper inside, or in a text, are none of ours.
        (b'{"metadata":{"stream_options":null}}', b'{"metadata":{"stream_options":null},' + ASK + b"}"),
        (b'{"a":"\\"stream_options\\":null"}', b'{"a":"\\"stream_options\\":null",' + ASK + b"}"),
        (
            b'{"a":"stream_options","b":[{"stream_options":1}]}',
            b'{"a":"stream_options","b":[{"stream_options":1}],' + ASK + b"}",
        ),
        (
            b'{"stream_options":{},"b":{"stream_options":{"include_usage":true}}}',
            b"{" + ASK + b',"b":{"stream_options":{"include_usage":true}}}',
        ),
    ],
)
def test_asking_for_usage_changes_nothing_else(sent, forwarded):
    assert inject_include_usage(sent) == forwarded


@pytest.mark.parametrize(
    "sent",
    [
        b'{"stream_options":{"include_usage":true}}',
        b'{"stream_options":{"include_usage":"yes"}}',
        b'{"stream_options":"all"}',
        b'{"stream_options":[]}',
        b'[{"stream_options":{}}]',
        b'"{}"',
        b"{",
        b"",
    ],
)
def test_a_body_that_asks_already_or_is_wrong_passes_untouched(sent):
    assert inject_include_usage(sent) is sent


def test_an_option_spelled_with_escapes_is_set_too():
    spelled = b'{"stream\\u005foptions":null,"a":[{"stream_options":1}]}'
    members = json.loads(inject_include_usage(spelled), object_pairs_hook=list)
    assert members == [("stream_options", [("include_usage", True)]), ("a", [[("stream_options", 1)]])]


def test_a_hostile_body_full_of_namesakes_costs_no_quadratic_time():
    inner = b",".join([b'"stream_options":0'] * 50_000)
    before = process_time()
    forwarded = inject_include_usage(b'{"a":{' + inner + b"}}")
    assert process_time() - before < 1.0  # hundredths when linear, many seconds when not
    assert json.loads(forwarded)["stream_options"] == {"include_usage": True}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": json_values,
            "stream_options": json_values | st.dictionaries(st.sampled_from(["include_usage", "a"]), json_values),
            'q"}': json_values | st.dictionaries(st.just("stream_options"), json_values),
        },
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_whatever_the_request_only_the_asking_is_added(fields, indent, ascii_only):
    sent = json.dumps(
        json.loads(json.dumps(fields).replace("NaN", "0").replace("Infinity", "1")),
        indent=indent,
        ensure_ascii=ascii_only,
    ).encode(errors="replace")
    before = json.loads(sent)
    after = json.loads(inject_include_usage(sent))
    options = before.get("stream_options")
    asked = options.get("include_usage") if isinstance(options, dict) else options
    if asked is None or (asked is False and isinstance(options, dict)):
        assert after == {**before, "stream_options": {**(options or {}), "include_usage": True}}
    else:
        assert after == before
