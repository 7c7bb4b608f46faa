"""Which ids an answer makes known."""

from __future__ import annotations

import json

from quotapool.openai import ids
from quotapool.openai.answer_ids import made_by


def made(document: object, place: ids.Kind) -> set[tuple[str, str]]:
    return {(kind.name, object_id) for kind, object_id in made_by(json.dumps(document).encode(), place)}


def test_an_answer_makes_ids_known():
    assert made({"id": "file-1", "object": "file"}, ids.FILE) == {("file", "file-1")}
    batch = {"id": "batch_1", "output_file_id": "file-2", "error_file_id": None}
    assert made(batch, ids.BATCH) == {("batch", "batch_1"), ("file", "file-2")}
    upload = {"id": "upload_1", "file": {"id": "file-3"}}
    assert made(upload, ids.UPLOAD) == {("upload", "upload_1"), ("file", "file-3")}
    job = {"id": "ftjob-1", "fine_tuned_model": "ft:gpt-4o:acme::1", "result_files": ["file-4"]}
    tuned = {("fine_tuning_job", "ftjob-1"), ("fine_tuned_model", "ft:gpt-4o:acme::1"), ("file", "file-4")}
    assert made(job, ids.JOB) == tuned
    listed = {"object": "list", "data": [{"id": "file-5"}, {"id": "file-6"}]}
    assert made(listed, ids.FILE) == {("file", "file-5"), ("file", "file-6")}
    assert made({"id": "thing_1"}, ids.OTHER) == {("other", "thing_1")}
    assert made_by(b"no json", ids.FILE) == []


def test_a_response_makes_its_items_and_its_container_known():
    note = {"type": "container_file_citation", "container_id": "cntr_2", "file_id": "cfile_1"}
    response = {
        "id": "resp_1",
        "output": [
            {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAAAAB-secret"},
            {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"},
            {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "annotations": [note]}]},
        ],
    }
    expected = {
        ("response", "resp_1"), ("item", "rs_1"), ("item", "ci_1"), ("item", "msg_1"),
        ("encrypted_item", "enc:gAAAAAB-secret"), ("container", "cntr_1"), ("container", "cntr_2"),
    }  # fmt: skip
    assert made(response, ids.RESPONSE) == expected
    assert made({"type": "response.completed", "response": response}, ids.RESPONSE) == expected


def test_a_streams_item_is_known_with_what_it_worked_in():
    item = {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"}
    event = {"type": "response.output_item.done", "output_index": 0, "item": item}
    assert made(event, ids.RESPONSE) == {("item", "ci_1"), ("container", "cntr_1")}


def test_a_chats_sound_is_known():
    chat = {"id": "chatcmpl-1", "choices": [{"message": {"role": "assistant", "audio": {"id": "audio_1", "data": ""}}}]}
    assert made(chat, ids.CHAT) == {("chat_completion", "chatcmpl-1"), ("audio", "audio_1")}


def test_a_response_shows_which_stored_prompt_its_account_has():
    response = {"id": "resp_1", "prompt": {"id": "pmpt_1", "variables": None, "version": "2"}, "output": []}
    expected = {("response", "resp_1"), ("prompt", "pmpt_1")}
    assert made(response, ids.RESPONSE) == expected
    assert made({"type": "response.completed", "response": response}, ids.RESPONSE) == expected
    assert made({**response, "prompt": None}, ids.RESPONSE) == {("response", "resp_1")}
    assert made({"id": "video_1", "prompt": {"id": "pmpt_1"}}, ids.VIDEO) == {("video", "video_1")}
