"""Which requests' answers are never kept, and which requests are taken to ask for the same answer."""

from __future__ import annotations

import json
from typing import Any, Required, get_args, get_origin, get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params, moderation_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from quotapool.openai.cacheable import MOST, NEVER, canonical
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.facts import Canonical
from quotapool.openai.left_out import LEFT_OUT, NULL_IS_DEFAULT

PATHS = ("chat/completions", "completions", "responses", "embeddings", "moderations")
LEAST: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"},
    "responses": {"model": "gpt-4o-mini", "input": "Hi", "store": False},
    "embeddings": {"model": "text-embedding-3-small", "input": "Hi"},
    "moderations": {"model": "omni-moderation-latest", "input": "Hi"},
}
PARAMS: dict[str, Any] = {
    "chat/completions": chat_params.CompletionCreateParamsBase,
    "completions": completion_create_params.CompletionCreateParamsBase,
    "responses": response_create_params.ResponseCreateParamsBase,
    "embeddings": embedding_create_params.EmbeddingCreateParams,
    "moderations": moderation_create_params.ModerationCreateParams,
}


def asked(path: str, text: bytes, method: str = "POST", target: str = "") -> Canonical | str:
    target = target or f"/v1/{path}"
    endpoint = resolve(method, target)
    assert isinstance(endpoint, Endpoint)
    return canonical(endpoint, method, target, text)


def of(path: str, **members: Any) -> Canonical | str:
    return asked(path, json.dumps({**LEAST[path], **members}).encode())


def kept(path: str, **members: Any) -> Canonical:
    found = of(path, **members)
    assert isinstance(found, Canonical), found
    return found


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


# ---- what is never kept

IMAGE = "data:image/png;base64,iVBORw0KGgo="
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("path", "members", "why"),
    [
        ("chat/completions", {"store": True}, "stored_objects"),
        ("chat/completions", {"store": "true"}, "malformed"),
        ("chat/completions", {"modalities": ["text", "audio"]}, "audio"),
        ("chat/completions", {"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ("chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "stored_objects"),
        ("chat/completions", {"web_search_options": {}}, "tools_hosted"),
        ("chat/completions", {"model": "gpt-4o-search-preview"}, "tools_hosted"),
        ("chat/completions", {"model": "gpt-5-search-api-2025-10-14"}, "tools_hosted"),
        ("chat/completions", {"tools": [FUNCTION, {"type": "web_search"}]}, "tools_hosted"),
        ("chat/completions", {"tools": [{"type": "shell", "environment": {"type": "local"}}]}, "tools_hosted"),
        ("chat/completions", {"tools": [{"function": {"name": "f"}}]}, "tools_hosted"),
        ("chat/completions", {"tools": {"type": "function"}}, "malformed"),
        ("chat/completions", {"messages": user({"type": "file", "file": {"file_id": "file-1"}})}, "stored_objects"),
        (
            "chat/completions",
            {"messages": user({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}})},
            "remote_content",
        ),
        (
            "chat/completions",
            {
                "messages": user(
                    {"type": "image_url", "image_url": {"detail": "low", "url": IMAGE}},
                    {"type": "image_url", "image_url": {"url": "http://x.test/a.png"}},
                )
            },
            "remote_content",
        ),
        (
            "chat/completions",
            {"messages": user({"type": "image_url", "image_url": "https://x.test/a"})},
            "remote_content",
        ),
        ("chat/completions", {"messages": "Hi"}, "malformed"),
        ("chat/completions", {"messages": ["Hi"]}, "malformed"),
        ("chat/completions", {"model": None}, "malformed"),
        ("chat/completions", {"n": 0}, "malformed"),
        ("chat/completions", {"n": "2"}, "malformed"),
        ("chat/completions", {"n": True}, "malformed"),
        ("chat/completions", {"temperature": "0.5"}, "malformed"),
        ("chat/completions", {"temperature": True}, "malformed"),
        ("chat/completions", {"temperature": -1}, "malformed"),
        ("chat/completions", {"stream": "true"}, "malformed"),
        ("chat/completions", {"stream": 1}, "malformed"),
        ("chat/completions", {"stream_options": {"include_usage": True}}, "malformed"),
        ("chat/completions", {"stream": True, "stream_options": []}, "malformed"),
        ("chat/completions", {"stream": True, "stream_options": {"include_usage": "yes"}}, "malformed"),
        ("responses", {"store": True}, "stored_objects"),
        ("responses", {"store": None}, "stored_objects"),
        ("responses", {"previous_response_id": "resp_1"}, "stored_objects"),
        ("responses", {"conversation": {"id": "conv_1"}}, "stored_objects"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "stored_objects"),
        ("responses", {"background": True}, "background"),
        ("responses", {"prompt_cache_options": {"comparison_response_id": "resp_1"}}, "stored_objects"),
        ("responses", {"prompt_cache_options": {"prewarm": True}}, "prewarm"),
        ("responses", {"generate": False}, "prewarm"),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "stored_objects"),
        ("responses", {"input": [{"id": "msg_1"}]}, "stored_objects"),
        ("responses", {"input": [{"type": "message", "id": "msg_1"}]}, "stored_objects"),
        ("responses", {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "stored_objects"),
        ("responses", {"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}, "tools_hosted"),
        ("responses", {"input": [{"type": "computer_call_output", "call_id": "c", "output": {}}]}, "tools_hosted"),
        ("responses", {"input": [{"type": "additional_tools", "tools": []}]}, "tools_hosted"),
        ("responses", {"input": [{"type": 1}]}, "malformed"),
        ("responses", {"input": ["Hi"]}, "malformed"),
        ("responses", {"input": None}, "malformed"),
        ("responses", {"model": None}, "malformed"),
        ("responses", {"input": user({"type": "input_file", "file_id": "file-1"})}, "stored_objects"),
        ("responses", {"input": user({"type": "input_image", "file_id": "file-1"})}, "stored_objects"),
        ("responses", {"input": user({"type": "input_file", "file_url": "https://x.test/a.pdf"})}, "remote_content"),
        ("responses", {"input": user({"type": "input_image", "image_url": "https://x.test/a.png"})}, "remote_content"),
        (
            "responses",
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "file_id": "f"}],
                    }
                ]
            },
            "stored_objects",
        ),
        *(
            ("responses", {"tools": [TOOL, {"type": kind}]}, "tools_hosted")
            for kind in (
                *("web_search", "web_search_preview", "file_search", "code_interpreter", "mcp", "image_generation"),
                *("computer", "computer_use_preview", "shell", "tool_search", "programmatic_tool_calling", "new"),
            )
        ),
        ("responses", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools_hosted"),
        ("completions", {"prompt": []}, "malformed"),
        ("completions", {"prompt": {"a": 1}}, "malformed"),
        ("embeddings", {"input": []}, "malformed"),
        ("embeddings", {"input": None}, "malformed"),
        ("embeddings", {"model": 1}, "malformed"),
        ("moderations", {"model": 1}, "malformed"),
        (
            "moderations",
            {"input": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
            "remote_content",
        ),
    ],
)
def test_what_depends_on_more_than_its_text_is_never_kept(path, members, why):
    assert of(path, **members) == why
    assert why in NEVER


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("chat/completions", {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}]}),
        ("chat/completions", {"messages": user({"type": "image_url", "image_url": {"detail": "low", "url": IMAGE}})}),
        ("chat/completions", {"messages": user({"type": "file", "file": {"file_data": "JVBERi0="}})}),
        ("chat/completions", {"messages": user({"type": "input_audio", "input_audio": {"data": "AAAA"}})}),
        # words about ids and URLs are words
        ("chat/completions", {"messages": user({"type": "text", "text": '{"file_id":"file-1","url":"http://x"}'})}),
        (
            "chat/completions",
            {"tools": [{**FUNCTION, "function": {"parameters": {"properties": {"file_id": {}, "image_url": {}}}}}]},
        ),
        ("chat/completions", {"modalities": ["text"]}),
        ("chat/completions", {"store": False}),
        ("chat/completions", {"model": "my-search-model"}),
        ("responses", {"input": [{"role": "user", "content": "Hi"}], "background": False}),
        ("responses", {"input": user({"type": "input_image", "image_url": IMAGE, "file_id": None})}),
        ("responses", {"conversation": None, "previous_response_id": None, "prompt": None}),
        (
            "responses",
            {
                "input": [
                    {"type": "message", "role": "user", "content": "Hi"},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
                    {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": '{"file_id":"file-1"}'},
                ],
                "tools": [TOOL, {"type": "custom", "name": "c"}, {"type": "shell", "environment": {"type": "local"}}],
            },
        ),
        ("responses", {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}),
        ("moderations", {"input": ["Hi", "there"]}),
        ("moderations", {"model": None}),
        ("moderations", {"input": [{"type": "image_url", "image_url": {"url": IMAGE}}]}),
    ],
)
def test_what_depends_on_its_text_alone_may_be_kept(path, members):
    assert isinstance(of(path, **members), Canonical)


@pytest.mark.parametrize(
    ("method", "target", "text", "why"),
    [
        ("POST", "/v1/chat/completions?a=1", b"{}", "query"),
        ("POST", "/v1/responses?beta=true", b"{}", "query"),
        ("POST", "/v1/chat/completions/", b"{}", "endpoint"),
        ("POST", "/v1/responses/compact", b"{}", "endpoint"),
        ("POST", "/v1/images/generations", b"{}", "endpoint"),
        ("GET", "/v1/chat/completions", b"", "endpoint"),
        ("GET", "/v1/responses/resp_1", b"", "endpoint"),
        ("GET", "/v1/files", b"", "endpoint"),
        ("DELETE", "/v1/models/ft:gpt-4o:o::1", b"", "endpoint"),
        ("HEAD", "/v1/models", b"", "endpoint"),
        ("GET", "/v1/models?limit=1", b"", "query"),
        ("GET", "/v1/models", b"{}", "body"),
    ],
)
def test_other_endpoints_and_spellings_are_never_kept(method, target, text, why):
    assert asked("", text, method, target) == why


def test_lists_and_descriptions_of_models_may_be_kept_each_apart():
    texts = [asked("", b"", "GET", target) for target in ("/v1/models", "/v1/models/gpt-4o", "/v1/models/o3")]
    assert [found.text for found in texts if isinstance(found, Canonical)] == [
        b"/v1/models",
        b"/v1/models/gpt-4o",
        b"/v1/models/o3",
    ]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b'"a"', b"{", b"{}x", b'{"a":NaN}', b'{"a":01}', b'{"a":"\\ud800"}', b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a":' * 100_000, b"[" * 100_000, b'{"a":1' + b"0" * 5000 + b"}",
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_not_certainly_json_is_never_kept(path, text):
    assert asked(path, text) == "malformed"


def test_a_longer_body_is_never_kept():
    least = json.dumps({**LEAST["embeddings"], "input": ""}).encode()
    for length, expected in ((MOST, Canonical), (MOST + 1, str)):
        text = least.replace(b'""', b'"' + b"a" * (length - len(least)) + b'"')
        assert len(text) == length
        assert isinstance(asked("embeddings", text), expected)
    assert asked("embeddings", text) == "large"


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"a","model":"gpt-4o","input":"Hi"}',
        b'{"model":"a","m\\u006fdel":"gpt-4o","input":"Hi"}',
        b'{"model":"gpt-4o","input":"Hi","user":"a","user":"b"}',
        b'{"model":"gpt-4o","input":"Hi","x":{"a":[{"b":1,"b":1}]}}',
        # an escaped colon does not make up for the member that is lost
        b'{"model":"a","model":"gpt-4o","input":"\\u003a"}',
        b'{"model":"a","model":"gpt-4o","input":"\\u003A"}',
        b'{"model":"a","model":"gpt-4o","input":"\\\\u003a"}',
    ],
)
def test_a_body_that_can_be_read_in_two_ways_is_never_kept(text):
    """If upstream read the first of two members, one client could have its own answer served to another's request."""
    assert asked("embeddings", text) == "repeated_member"


# ---- what does not shape the answer

OTHER_VALUES: dict[str, tuple[Any, ...]] = {
    "stream": (True, False, None),
    "stream_options": (None,),
    "user": ("u-1", "u-2", "", None),
    "safety_identifier": ("a", "b", None),
    "metadata": ({}, {"a": 'b: "c"'}, None),
    "prompt_cache_key": ("k", None),
    "prompt_cache_retention": ("24h", None),
    "service_tier": ("flex", "priority", "auto", None),
    "store": (False,),
    "background": (False, None),
}


@pytest.mark.parametrize("row", LEFT_OUT, ids=lambda row: row.member)
def test_what_does_not_shape_the_answer_is_left_out_where_the_table_says_so_and_nowhere_else(row):
    assert row.why
    for path in PATHS:
        plain = kept(path)
        for value in OTHER_VALUES[row.member]:
            if path in row.endpoints.split():
                assert kept(path, **{row.member: value}).text == plain.text
            elif row.member not in LEAST[path]:
                assert kept(path, **{row.member: value}).text != plain.text


def test_the_options_of_a_stream_are_left_out_as_far_as_they_are_known():
    plain = kept("chat/completions")
    for path in ("chat/completions", "completions"):
        with_usage = kept(path, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
        assert (with_usage.text, with_usage.streamed, with_usage.asked_usage) == (kept(path).text, True, True)
    assert not kept("chat/completions", stream=True, stream_options={"include_usage": False}).asked_usage
    assert kept("responses", stream=True, stream_options={"include_obfuscation": False}).text == kept("responses").text
    unknown = kept("chat/completions", stream=True, stream_options={"include_usage": True, "new": 1})
    assert unknown.text != plain.text
    assert b'"stream_options":{"include_usage":true,"new":1}' in unknown.text


def test_an_unknown_member_stays_in():
    for path in PATHS:
        assert kept(path, new_member=None).text != kept(path).text
        assert kept(path, new_member=1).text != kept(path, new_member=2).text


@pytest.mark.parametrize("path", PATHS)
def test_null_is_the_default_of_the_members_that_the_sdk_has_as_nullable_and_of_no_others(path):
    """The SDK is made from OpenAI's specification: what it lets be None has a default there."""
    hints = get_type_hints(PARAMS[path], include_extras=True)
    nullable = {
        name for name, hint in hints.items() if get_origin(hint) is not Required and type(None) in get_args(hint)
    }
    left_out = {row.member for row in LEFT_OUT if path in row.endpoints.split()}
    assert set(NULL_IS_DEFAULT[path].split()) == nullable - left_out
    for name in nullable - left_out:
        assert kept(path, **{name: None}).text == kept(path).text


def test_the_members_that_a_response_repeats_are_told_beside():
    own = kept("responses", user="u", metadata={"a": "b"}, safety_identifier=None, stream=True, service_tier="flex").own
    assert json.loads(own) == {"user": "u", "metadata": {"a": "b"}}
    assert kept("responses", stream=True).own == b""
    assert kept("chat/completions", user="u").own == b""


# ---- what is told beside the text


@pytest.mark.parametrize(
    ("path", "members", "temperature"),
    [
        ("chat/completions", {}, 1.0),
        ("chat/completions", {"temperature": None}, 1.0),
        ("chat/completions", {"temperature": 0}, 0.0),
        ("chat/completions", {"temperature": 1.5}, 1.5),
        ("chat/completions", {"temperature": 0.30000000000000004}, 0.30000000000000004),
        ("responses", {"temperature": 0.25}, 0.25),
        ("completions", {}, 1.0),
        ("embeddings", {}, 0.0),
        ("embeddings", {"temperature": 2}, 0.0),
        ("moderations", {}, 0.0),
    ],
)
def test_the_temperature_is_told(path, members, temperature):
    assert kept(path, **members).temperature == temperature


@pytest.mark.parametrize(
    ("path", "members", "choices"),
    [
        ("chat/completions", {}, 1),
        ("chat/completions", {"n": 3}, 3),
        ("chat/completions", {"n": None}, 1),
        ("completions", {"prompt": ["a", "b"], "n": 3}, 6),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": [[1], [2]], "best_of": 5}, 2),
        ("completions", {"prompt": None}, 1),
        ("embeddings", {"input": ["a", "b", "c"]}, 3),
        ("embeddings", {"input": [1, 2, 3]}, 1),
        ("embeddings", {"input": [[1, 2], [3]]}, 2),
        ("responses", {}, 1),
        ("moderations", {"input": ["a", "b"]}, 1),
    ],
)
def test_how_much_an_answer_has_to_hold_is_told(path, members, choices):
    assert kept(path, **members).choices == choices


def test_the_text_is_the_json_that_stays():
    text = b"""{ "temperature": 5e-1, "user": "u", "model": "gpt-4o", "top_p": 1.0, "seed": null, "messages": [
        {"role": "user", "content": "\\u00e9\\/\\n\\ud83d\\ude00"} ], "stream": true }"""
    found = asked("chat/completions", text)
    assert isinstance(found, Canonical)
    messages = '"messages":[{"content":"é/\\n😀","role":"user"}]'
    assert found.text.decode() == f'{{{messages},"model":"gpt-4o","temperature":0.5,"top_p":1}}'
