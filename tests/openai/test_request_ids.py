"""Where ids stand in requests, and what is the user's own. Shapes: OpenAI's specification and the Python SDK 3.54."""

from __future__ import annotations

import json
from typing import Any

import pytest
from quotapool.openai import ids, reference_marks, request_ids

FIRM, PRIVATE, COPY = "must be known", "must not be another client's", "only shows an account"


def how(found: ids.Reference) -> str:
    return FIRM if not found.hint else PRIVATE if found.private else COPY


def named(document: object) -> set[tuple[str, str, str]]:
    found = request_ids.references_in(json.dumps(document).encode(), strictly=True)
    return {(one.kind.name, one.id, how(one)) for one in found}


FUNCTION: dict[str, Any] = {"type": "function", "name": "f"}
OWN_WORDS = {"file_id": "file-1", "thread_id": "thread_1", "id": "msg_1", "vector_store_ids": ["vs_1"]}


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": OWN_WORDS},
        {"client_metadata": {**OWN_WORDS, "turn": {"thread_id": "thread_1"}}},
        {"prompt": {"variables": {"thread_id": "thread_1", "file_id": "file-1", "voice": "voice_1"}}},
        {"attributes": OWN_WORDS},
        {"files": [{"attributes": {"file_id": "file-1"}}]},
        {"tools": [{"type": "mcp", "server_url": "https://x", "headers": {"thread_id": "thread_1"}}]},
        {"tools": [{**FUNCTION, "parameters": {"examples": [OWN_WORDS], "properties": OWN_WORDS}}]},
        {"tools": [{**FUNCTION, "examples": [OWN_WORDS]}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": OWN_WORDS}}}]},
        {"text": {"format": {"type": "json_schema", "schema": {"examples": [OWN_WORDS]}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": OWN_WORDS}}}},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps(OWN_WORDS)}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": OWN_WORDS}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": json.dumps(OWN_WORDS)}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": OWN_WORDS}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [OWN_WORDS]}]},
        {"input": [{"type": "local_shell_call", "call_id": "c", "action": {"env": {"thread_id": "thread_1"}}}]},
        {"input": [{"type": "mcp_list_tools", "tools": [{"name": "f", "input_schema": OWN_WORDS}]}]},
        {"input": [{"type": "mcp_call", "name": "f", "arguments": "{}", "output": json.dumps(OWN_WORDS)}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": json.dumps(OWN_WORDS)}]},
        {"data_source": {"source": {"type": "file_content", "content": [{"item": OWN_WORDS, "sample": OWN_WORDS}]}}},
        {"data_source_config": {"type": "custom", "item_schema": {"properties": OWN_WORDS}}},
        {"workflow": {"id": "wf_1", "state_variables": OWN_WORDS}},
    ],
)
def test_the_users_own_words_are_no_ids(document):
    assert named(document) == set()


@pytest.mark.parametrize(
    "document",
    [
        {
            "tools": [
                {"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "openai-x"}]}}
            ]
        },
        {"conversation": {"id": "mine"}},
        {"container": "auto"},
        {"voice": "alloy"},
        {"voice": {"id": "alloy"}},
        {"tools": [{"container": {"type": "auto"}}]},
    ],
)
def test_openais_own_words_are_no_ids(document):
    assert named(document) == set()


def test_a_value_without_its_prefix_is_an_id_only_if_the_proxy_saw_it_made():
    assert named({"thread_id": "01a22309-7e1f"}) == {("thread", "01a22309-7e1f", PRIVATE)}
    assert named({"input_file_id": "file_01jh"}) == {("file", "file_01jh", PRIVATE)}


@pytest.mark.parametrize(
    ("document", "kind", "object_id"),
    [
        ({"prompt": {"variables": {"manual": {"type": "input_file", "file_id": "file-1"}}}}, "file", "file-1"),
        ({"prompt": {"variables": {"file_id": {"type": "input_file", "file_id": "file-1"}}}}, "file", "file-1"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file",
                                                                                    "file_id": "file-1"}]}]},
            "file", "file-1",
        ),
        (
            {"input": [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot",
                                                                                   "file_id": "file-1"}}]},
            "file", "file-1",
        ),
        ({"session": {"audio": {"output": {"voice": {"id": "voice_1"}}}}}, "voice", "voice_1"),
        ({"tools": [{"skills": [{"type": "skill_reference", "skill_id": "skill_1"}]}]}, "skill", "skill_1"),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "audio", "audio_1"),
        ({"prompt_cache_options": {"comparison_response_id": "resp_1"}}, "response", "resp_1"),
        ({"agent_id": "agent_1"}, "agent", "agent_1"),
        ({"vault_ids": ["vault_1"]}, "vault", "vault_1"),
    ],
)  # fmt: skip
def test_what_upstream_would_read_is_an_id_wherever_it_stands(document, kind, object_id):
    assert named(document) == {(kind, object_id, FIRM)}


TEXT = [{"type": "output_text", "text": "hi"}]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"id": "msg_1"}, FIRM),
        ({"id": "msg_1", "type": None}, FIRM),
        ({"id": "msg_1", "type": "item_reference"}, FIRM),
        ({"id": "msg_1", "type": "item_reference", "content": TEXT}, FIRM),
        ({"id": "msg_1", "x": 1}, FIRM),
        ({"id": "msg_1", "type": "message", "role": "assistant", "content": []}, FIRM),
        ({"id": "ig_1", "type": "image_generation_call"}, FIRM),
        ({"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": None}, FIRM),
        ({"id": "rs_1", "type": "reasoning", "summary": []}, FIRM),
        ({"id": "ws_1", "type": "web_search_call", "status": "completed"}, FIRM),
        ({"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]}, PRIVATE),
        ({"id": "ig_1", "type": "image_generation_call", "result": "AAAA"}, PRIVATE),
        ({"id": "msg_1", "type": "message", "role": "assistant", "content": TEXT}, COPY),
        ({"id": "msg_1", "role": "assistant", "content": TEXT}, COPY),
        ({"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, COPY),
    ],
)
def test_an_item_with_its_id_alone_is_a_reference_and_one_with_its_content_is_a_copy(item, expected):
    for document in ({"input": [item]}, {"items": [item]}, {"type": "response.create", "input": [item]}):
        assert named(document) == {("item", item["id"], expected)}


def test_an_encrypted_reasoning_needs_no_stored_item():
    item = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "gAAAAAB-secret"}
    assert named({"input": [item]}) == {("item", "rs_1", COPY), ("encrypted_item", "enc:gAAAAAB-secret", COPY)}


def test_a_long_history_is_looked_up_by_its_last_copies_only():
    history = [{"id": f"msg_{n}", "type": "message", "role": "assistant", "content": TEXT} for n in range(200)]
    assert {one for _, one, _ in named({"input": [*history, {"id": "rs_1"}]})} == {
        "rs_1", "msg_196", "msg_197", "msg_198", "msg_199",
    }  # fmt: skip


@pytest.mark.parametrize(
    "repeated", [b'"id":"msg_1"', b'"container_id":"cntr_1"', b'"file_id":"file-1"', b'"encrypted_content":"gAAA"']
)
def test_a_body_that_names_too_many_is_not_looked_up(repeated):
    body = b'{"type":"item_reference","input":[{"call_id":"c",%s}]}'
    request_ids.references_in(body % b",".join([repeated] * (request_ids.MOST_NAMED // 2)))
    with pytest.raises(ValueError, match="more than 4096"):
        request_ids.references_in(body % b",".join([repeated] * (request_ids.MOST_NAMED + 1)))


def test_every_place_of_a_response_is_found_by_a_search_for_bytes():
    for document in ({"input": [{"id": "msg_1"}]}, {"prompt": {"id": "pmpt_1"}}, {"conversation": "conv_1"}):
        for separators in ((",", ":"), (", ", ": ")):
            body = json.dumps({"model": "m", **document}, separators=separators).encode()
            assert reference_marks.may_reference("responses", body, strictly=False)
    assert reference_marks.may_reference("chat", b'{"messages":[{"audio":{"id":"audio_1"}}]}', strictly=False)


def test_sound_is_not_searched_and_hides_nothing():
    def is_read(text: bytes) -> bool:
        return reference_marks.event_may_reference(bytearray(text))

    assert not is_read(b'{"type":"input_audio_buffer.append","audio":"AAAA"}')
    assert not is_read(b'{"type":"conversation.item.create","item":{"content":[{"type":"input_audio","audio":"AA"}]}}')
    assert is_read(b'{"type":"x","audio":"AAAA","file_id":"file-1"}')
    assert is_read(b'{"type":"x","file_id":"file-1","audio":"AAAA"}')
    assert is_read(b'{"type":"x","audio":"AA\\",","file\\u005fid":"file-1"}')
