"""Forms that name their model behind the file: the same limits, the same bookkeeping as if it stood before it."""

from __future__ import annotations

import asyncio
import time

import pytest
from quotapool.domain.request_record import RequestRecord

from tests.fakes.edge import Client, error, fails, says

TRANSCRIPTIONS, EDITS = "/v1/audio/transcriptions", "/v1/images/edits"
MULTIPART = [("Content-Type", "multipart/form-data; boundary=b")]
THREE = {"limits": {"models": {"whisper-1": {"rpm": 3}}}}
HEARD = says(200, {"text": "hi", "usage": {"type": "duration", "seconds": 9}})


def field(name: str, value: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)


def form(size: int = 200_000, *, model: bytes = b"whisper-1", end: bytes = b"--b--\r\n") -> list[bytes]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
    whole = head + b"\xff" * size + b"\r\n" + field("model", model) + end
    return [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]


def upload(pieces: list[bytes] | None = None, *, target: str = TRANSCRIPTIONS, **more: object) -> Client:
    return Client(form() if pieces is None else pieces, target=target, more_headers=MULTIPART, **more)


async def ask(pool, client: Client) -> RequestRecord:
    trip = RequestRecord("t", time.monotonic(), "POST")
    await pool.ask(client, trip)
    return trip


async def test_a_model_behind_200_kb_of_file_is_found_booked_and_settled_as_its_own(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.otherwise = HEARD
    client = upload()
    trip = await ask(pool, client)
    assert (client.status, trip.model, pool.recorder.models) == (200, "whisper-1", ["whisper-1"])
    assert pool.upstream.sent[0].body == b"".join(form())
    assert await pool.taken("a", "whisper-1") == (1, 0)
    assert await pool.taken("a", "-") == (0, 0)  # what it had taken before its model was known
    assert pool.is_idle()


async def test_the_limit_of_a_model_behind_the_file_holds_for_the_next_form_and_for_every_other_request(open_pool):
    pool = await open_pool({"a": 1}, **THREE, queue={"max_wait": 0})
    pool.upstream.otherwise = HEARD
    for _ in range(2):  # three a minute less the margin, as with a model in front of the file
        client = upload()
        await ask(pool, client)
        assert client.status == 200
    for refused in (upload(), upload(form(10)), upload([field("model", b"whisper-1"), *form(10)])):
        trip = await ask(pool, refused)
        assert (refused.status, refused.error["code"], trip.model) == (429, "rate_limit_exceeded", "whisper-1")
        assert 2 <= float(refused.header("retry-after")) <= 62  # three a minute
    # A form that was broken off before its end has not been transcribed.
    assert sum(sent.body.endswith(b"--b--\r\n") for sent in pool.upstream.sent) == 2
    assert pool.is_idle()


async def test_a_form_waits_for_its_models_budget_before_its_end_goes_up(open_pool):
    pool = await open_pool({"a": 1}, **THREE, queue={"max_wait": 30})
    pool.upstream.otherwise = HEARD
    began = time.monotonic()
    clients = [upload() for _ in range(4)]
    for client in clients:
        await pool.serve(client, RequestRecord("t", time.monotonic(), "POST"))
    await pool.quiet()
    assert [client.status for client in clients] == [200] * 4
    assert time.monotonic() - began == pytest.approx(
        21.2, abs=0.5
    )  # three a minute: the third after 1.2 s, one more every 20 s


async def test_images_of_a_form_with_a_late_model_count_against_images_per_minute(open_pool):
    pool = await open_pool({"a": 1}, limits={"models": {"gpt-image-2": {"ipm": 3}}}, queue={"max_wait": 0})
    pool.upstream.otherwise = says(200, {"data": []})
    statuses = []
    for _ in range(2):
        client = upload([field("n", b"2"), *form(model=b"gpt-image-2")], target=EDITS)
        await ask(pool, client)
        statuses.append(client.status)
    assert statuses == [200, 429]


async def test_what_goes_wrong_with_a_late_model_leaves_nothing_behind(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(fails("reset"), error(400, "invalid_value"))
    for status in (502, 400):
        client = upload()
        await ask(pool, client)
        assert client.status == status
    # An answer before the form's end, and a client that leaves while its form waits.
    tired = upload([*form()[:-1], form()[-1][:50]])  # its model never comes
    pool.upstream.next(HEARD)
    trip = await ask(pool, tired)
    assert (tired.status, trip.model) == (200, "")
    await pool.drain("a", 0, "whisper-1")
    pool.upstream.otherwise = HEARD
    leaving = asyncio.create_task(pool.serve(upload(), RequestRecord("t", time.monotonic(), "POST")))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await pool.quiet()
    assert pool.is_idle()


async def test_a_form_that_waits_for_its_models_budget_is_answered_when_the_proxy_stops(open_pool):
    pool = await open_pool({"a": 1}, **THREE, queue={"max_wait": 60})
    pool.upstream.otherwise = HEARD
    for _ in range(3):
        await ask(pool, upload())
    waiting = upload()
    served = asyncio.create_task(pool.serve(waiting, RequestRecord("t", time.monotonic(), "POST")))
    await asyncio.sleep(2)
    pool.admission.drain()
    began = time.monotonic()
    await served
    assert (waiting.status, waiting.error["code"], waiting.header("retry-after")) == (503, "draining", "1")
    assert time.monotonic() - began < 1.1
    await pool.quiet()
    assert pool.is_idle()
