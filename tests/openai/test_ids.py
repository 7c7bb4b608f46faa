"""Which stored objects a request names, and which an answer makes known. Prefixes: OpenAI's specification."""

from __future__ import annotations

import json

import pytest
from quotapool.openai import ids, reference_marks, request_ids


def named(document: object) -> set[tuple[str, str]]:
    return {(found.kind.name, found.id) for found in request_ids.references_in(json.dumps(document).encode())}


@pytest.mark.parametrize(
    ("target", "kind", "object_id", "tail"),
    [
        ("/v1/files", "file", "", ""),
        ("/v1/files/file-abc", "file", "file-abc", ""),
        ("/v1/files/file-abc/content", "file", "file-abc", "content"),
        ("/v1//files//file-abc", "file", "file-abc", ""),
        ("/v1/files/%66ile-abc?x=1", "file", "file-abc", ""),
        ("/v1/Files/file-abc", "file", "file-abc", ""),
        ("/v1/vector_stores/vs_1/files/file-2", "vector_store", "vs_1", "files/file-2"),
        ("/v1/responses", "response", "", ""),
        ("/v1/responses/compact", "response", "", "compact"),
        ("/v1/responses/resp_1/input_items?after=msg_1", "response", "resp_1", "input_items"),
        ("/v1/conversations/conv_1/items/msg_1", "conversation", "conv_1", "items/msg_1"),
        ("/v1/containers/cntr_1/files/cfile_1/content", "container", "cntr_1", "files/cfile_1/content"),
        ("/v1/batches/batch_1/cancel", "batch", "batch_1", "cancel"),
        ("/v1/uploads/upload_1/parts", "upload", "upload_1", "parts"),
        ("/v1/fine_tuning/jobs/ftjob-1/events", "fine_tuning_job", "ftjob-1", "events"),
        ("/v1/threads/thread_1/runs/run_1", "thread", "thread_1", "runs/run_1"),
        ("/v1/threads/runs", "thread", "", "runs"),
        ("/v1/evals/eval_1/runs/evalrun_1", "eval", "eval_1", "runs/evalrun_1"),
        ("/v1/videos/video_1/content", "video", "video_1", "content"),
        ("/v1/chat/completions/chatcmpl-1/messages", "chat_completion", "chatcmpl-1", "messages"),
        ("/v1/models/ft:gpt-4o:acme::1", "fine_tuned_model", "ft:gpt-4o:acme::1", ""),
        ("/v1/things_of_tomorrow/thing_1", "other", "thing_1", ""),
        ("/v1/agents/agent_1", "agent", "agent_1", ""),
        ("/v1/agents/sessions", "other", "", ""),
        ("/v1/agents/sessions/asess_1/turns/turn_1", "other", "asess_1", "turns/turn_1"),
        ("/v1/agents/environments/templates", "other", "", ""),
        ("/v1/agents/environments/templates/tmpl_1", "other", "tmpl_1", ""),
        ("/v1/agents/environments/env_1/files", "other", "env_1", "files"),
        ("/v1/videos/characters/char_1", "other", "char_1", ""),
    ],
)
def test_a_path_points_to_an_object(target, kind, object_id, tail):
    found = ids.object_path(target)
    assert found is not None
    assert (found.kind.name, found.id, found.tail) == (kind, object_id, tail)


@pytest.mark.parametrize(
    "target",
    ["/v1/embeddings", "/v1/models", "/v1/models/gpt-4o", "/v1/images/edits", "/v1/audio/speech", "/v1/completions",
     "/v1/fine_tuning/model_limits", "/v1/realtime/client_secrets"],
)  # fmt: skip
def test_nothing_is_stored_there(target):
    assert ids.object_path(target) is None


def test_a_list_is_paged_by_one_of_its_own_objects():
    files = ids.object_path("/v1/files?limit=10&after=file-1")
    items = ids.object_path("/v1/conversations/conv_1/items?after=msg_1")
    assert files is not None
    assert items is not None
    assert [(n.kind.name, n.id, n.param) for n in ids.cursors(files)] == [("file", "file-1", "after")]
    assert ids.cursors(items) == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"input_file_id": "file-1"}, {("file", "file-1")}),
        ({"training_file": "file-1", "validation_file": "file-2"}, {("file", "file-1"), ("file", "file-2")}),
        ({"file_ids": ["file-1", "file-2"]}, {("file", "file-1"), ("file", "file-2")}),
        ({"previous_response_id": "resp_1"}, {("response", "resp_1")}),
        ({"conversation": "conv_1"}, {("conversation", "conv_1")}),
        ({"conversation": {"id": "conv_1"}}, {("conversation", "conv_1")}),
        ({"conversation": "none"}, set()),
        ({"tools": [{"vector_store_ids": ["vs_1", "vs_2"]}]}, {("vector_store", "vs_1"), ("vector_store", "vs_2")}),
        ({"tools": [{"container": "cntr_1"}]}, {("container", "cntr_1")}),
        ({"tools": [{"container": {"type": "auto", "file_ids": ["file-1"]}}]}, {("file", "file-1")}),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, {("file", "file-1")}),
        ({"input": [{"content": [{"type": "input_image", "file_id": "file-1"}]}]}, {("file", "file-1")}),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, {("item", "msg_1")}),
        ({"input": [{"id": "msg_1", "type": "item_reference"}]}, {("item", "msg_1")}),
        ({"input": [{"type": "message", "id": "msg_1"}]}, {("item", "msg_1")}),
        ({"data_source": {"source": {"type": "file_id", "id": "file-1"}}}, {("file", "file-1")}),
        ({"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}}, {("vector_store", "vs_1")}),
        ({"thread_id": "thread_1", "assistant_id": "asst_1"}, {("thread", "thread_1"), ("assistant", "asst_1")}),
        # What is the user's own, or only mentioned:
        ({"metadata": {"file_id": "file-1", "thread_id": "7"}}, set()),
        ({"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]}, set()),
        ({"input": [{"content": [{"annotations": [{"file_id": "cfile_1"}]}]}]}, set()),
        ({"input": '{"file_id": "file-1"}'}, set()),
    ],
)
def test_a_body_names_objects(document, expected):
    assert named(document) == expected


def test_a_name_that_is_repeated_or_spelled_with_escapes_hides_nothing():
    twice = b'{"file_id":"file-mine","file_id":"file-yours"}'
    assert {found.id for found in request_ids.references_in(twice)} == {"file-mine", "file-yours"}
    escaped = b'{"previous\\u005fresponse\\u005fid":"resp_1"}'
    assert reference_marks.may_reference("responses", escaped, strictly=True)
    assert [found.id for found in request_ids.references_in(escaped)] == ["resp_1"]
    wide = '{"previous_response_id":"resp_1"}'.encode("utf-16")
    assert reference_marks.may_reference("responses", wide, strictly=True)
    assert [found.id for found in request_ids.references_in(wide)] == ["resp_1"]


def test_what_is_not_json_names_nothing():
    assert request_ids.references_in(b"{") == []
    assert request_ids.references_in(b"[" * 100_000) == []
    assert request_ids.references_in(b"v=0", strictly=True) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"file_id":"file-1"} and more',
        b'{"name":"\xff","file_id":"file-1"}',
        b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b',"file_id":"file-1"}',
    ],
    ids=["more behind it", "broken UTF-8", "too deep to decode"],
)
def test_a_body_that_upstream_might_read_and_we_cannot_is_refused(body):
    with pytest.raises(ValueError, match="not valid JSON"):
        request_ids.references_in(body, strictly=True)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'),
        ("responses", b'{"model":"gpt-4o","input":"hi"}'),
        ("embeddings", b'{"model":"x","input":"hi"}'),
    ],
)
def test_a_plain_request_is_not_decoded_for_ids(endpoint, body):
    assert not reference_marks.may_reference(endpoint, body, strictly=True)


def test_encrypted_reasoning_is_a_hint_by_its_beginning_and_the_last_ones_count():
    long = "gAAAAAB" + "x" * 200
    body = json.dumps({"input": [{"type": "reasoning", "encrypted_content": f"{n}{long}"} for n in range(9)]}).encode()
    found = request_ids.references_in(body)
    assert [n.id for n in found] == [ids.encrypted_id(f"{n}{long}") for n in (5, 6, 7, 8)]
    assert all(n.hint for n in found)


def test_a_stored_prompt_is_a_hint_and_its_variables_may_name_files():
    variables = {"name": "Ada", "manual": {"type": "input_file", "file_id": "file-1"}}
    body = json.dumps({"prompt": {"id": "pmpt_1", "version": "2", "variables": variables}}).encode()
    assert reference_marks.may_reference("responses", body, strictly=False)
    assert [(n.kind.name, n.id, n.hint) for n in request_ids.references_in(body)] == [
        ("prompt", "pmpt_1", True),
        ("file", "file-1", False),
    ]
    assert request_ids.references_in(b'{"prompt": "pmpt_1 is what I am told to draw"}') == []


def test_a_form_names_a_skill_by_its_prefix_and_openais_own_skills_are_no_ids():
    found = ids.reference_in_part("skill_id", "skill_1")
    assert found is not None
    assert (found.kind.name, found.id) == ("skill", "skill_1")
    assert ids.reference_in_part("skill_id", "openai-spreadsheets") is None


def test_a_tool_that_is_to_work_in_a_container_names_it_and_an_item_of_the_history_only_mentions_it():
    shell = {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]}
    ran = {"input": [{"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1", "outputs": []}]}
    for document, hint in ((shell, False), (ran, True)):
        (found,) = (n for n in request_ids.references_in(json.dumps(document).encode()) if n.kind is ids.CONTAINER)
        assert (found.kind.name, found.id, found.hint) == ("container", "cntr_1", hint)
