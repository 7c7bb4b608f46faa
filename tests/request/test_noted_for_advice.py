"""What the request path tells those who give advice: each request that was answered, with all that it used."""

from __future__ import annotations

from quotapool.advice.digests import digest_key
from quotapool.advice.note_store import NoteStore
from quotapool.advice.notes import Notes
from quotapool.settings import Settings

from tests.fakes.edge import DONE, Client, chat_body, delta, says, stream, usage_chunk

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
ANSWER = {"object": "chat.completion", "choices": [], "usage": USAGE}


async def test_an_answered_request_is_told_with_its_usage(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(200, ANSWER))
    await pool.ask(Client(chat_body(max_tokens=500), target="/v1/chat/completions?a=b"))
    ((request, record, target, priority),) = pool.noted
    assert (record.status, record.attempts[-1].usage.total, request.output) == (200, 30, 500)
    assert (target, priority) == ("/v1/chat/completions?a=b", 0)


async def test_so_is_a_stream_when_it_has_ended(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(delta(content="hello"), usage_chunk(10, 20), DONE))
    await pool.ask(Client(chat_body(stream=True)))
    ((_, record, _, _),) = pool.noted
    assert record.attempts[-1].usage.total == 30


async def test_and_the_priority_is_the_one_it_was_admitted_with(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(200, ANSWER))
    headers = (("Content-Type", "application/json"), ("X-Quotapool-Priority", "batch"))
    await pool.ask(Client(chat_body(), more_headers=headers))
    assert pool.noted[0][3] == -1


async def test_what_upstream_refuses_is_not_noted_and_what_the_proxy_refuses_is_not_even_told(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(400, {"error": {"message": "no", "type": "invalid_request_error"}}))
    await pool.ask(Client(chat_body()))
    assert len(pool.noted) == 1
    notes = Notes(NoteStore(pool.store, "default"), Settings.model_validate({"advice": {"enabled": True}}), b"k" * 32)
    notes.note(*pool.noted[0])
    assert notes._sums == {}
    await pool.ask(Client(b"{"))
    assert len(pool.noted) == 1


def test_a_key_of_digests_comes_from_the_master_key_and_is_the_pools_alone(tmp_path):
    shared = {"redis": "redis://127.0.0.1:1/0", "state_dir": str(tmp_path)}
    given = {**shared, "master_key": "a-master-key-of-some-thirty-letters-1", "advice": {"enabled": True}}
    key = digest_key(Settings.model_validate(given))
    assert len(key) == 32
    assert key == digest_key(Settings.model_validate(given))
    assert key != digest_key(Settings.model_validate({**given, "master_key": "a-master-key-of-some-thirty-letters-2"}))
    assert digest_key(Settings.model_validate({**given, "advice": {}})) == b""
    assert digest_key(Settings.model_validate({**shared, "advice": {"enabled": True}})) == b""  # and it is logged
    assert list(tmp_path.iterdir()) == []
