"""Every parser that sees foreign bytes, each as a function of bytes that raises nothing but what it documents."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quotapool.observe.redaction import Redactor
from quotapool.openai import answer_ids, classify, ids, named_models, reference_marks, request_ids, session_events
from quotapool.openai.cacheable import canonical
from quotapool.openai.encoding import TooLarge, Unreadable, decoded, decoded_request
from quotapool.openai.endpoints import Endpoint, resolve, session_query
from quotapool.openai.facts import Canonical
from quotapool.openai.forms import FormError, FormReader, boundary_of
from quotapool.openai.head import Head
from quotapool.openai.headers import headers_for_upstream
from quotapool.openai.jsontext import BROKEN, object_in, set_member
from quotapool.openai.own_members import OwnMembers
from quotapool.openai.ratelimits import parse_duration
from quotapool.openai.replay import Form, Replay
from quotapool.openai.requests import (
    InvalidRequest,
    inject_include_usage,
    peek_model,
    read_request,
    speech_characters,
)
from quotapool.openai.safety import fill_identifier
from quotapool.openai.sse import StreamRelay
from quotapool.openai.storable import unstorable
from quotapool.openai.usage import answering_model, read_usage
from quotapool.openai.value_count import has_too_many_values
from quotapool.request.cache_control import cache_control

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
MOST = 64 * 2**20
_PIECE = 512
_SECRET = "sk-proj-" + "x" * 40

Parser = Callable[[bytes], Any]


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]


def _form(data: bytes) -> None:
    for pieces in ([data], _pieces(data)):
        reader = FormReader(b"b")
        with contextlib.suppress(FormError):
            for piece in pieces:
                for part in reader.feed(piece):
                    ids.reference_in_part(part.name, (part.value or b"").decode("utf-8", "replace"))


def _stream(data: bytes) -> None:
    for dialect in ("chat", "responses"):
        relay = StreamRelay(dialect, strip_usage=dialect == "chat")  # type: ignore[arg-type]
        for piece in _pieces(data):
            relay.feed(piece)
        relay.finish()


def _replay(data: bytes) -> None:
    for kind in ("chat", "completions", "responses"):
        for form, streamed in ((Form.EVENTS, False), (Form.JSON, True)):
            replay = Replay(kind, form, streamed=streamed, usage=True)  # type: ignore[arg-type]
            for piece in _pieces(data):
                replay.feed(piece)
            replay.finish()


def _request(data: bytes) -> None:
    if has_too_many_values(data):  # as the request path asks first
        return
    for kind in ("chat", "responses", "completions", "embeddings"):
        with contextlib.suppress(InvalidRequest):
            read_request(kind, data)  # type: ignore[arg-type]
    peek_model(data)
    speech_characters(data)
    inject_include_usage(data)
    fill_identifier(data, "x")


def _names(data: bytes) -> None:
    if has_too_many_values(data):
        return
    reference_marks.may_reference("responses", data, strictly=True)
    with contextlib.suppress(ValueError):
        request_ids.references_in(data, strictly=True)
    with contextlib.suppress(ValueError):
        named_models.other_models(data, "")


def _event(data: bytes) -> None:
    session_events.type_of(data)
    if not has_too_many_values(data):
        session_events.may_create(data)
        session_events.read_create(data)
    session_events.read_event(data)


def _set_member(data: bytes) -> None:
    with contextlib.suppress(*BROKEN):
        set_member(data, "model", b'"x"')


def _encoded(data: bytes) -> None:
    for name in ("gzip", "deflate", "zstd", "br"):
        decoded(data, name, MOST)
        with contextlib.suppress(Unreadable, TooLarge):
            for _ in decoded_request(data, name, MOST):
                pass


def _target(data: bytes) -> None:
    target = "/v1/" + data.decode("latin-1")
    for method in ("GET", "POST"):
        resolve(method, target)
    place = ids.object_path(target)
    if place is not None:
        ids.cursors(place)
    for query in (target, "/v1/realtime?" + data.decode("latin-1")):
        with contextlib.suppress(ValueError):
            session_query(query)


def _header(data: bytes) -> None:
    text = data.decode("latin-1")
    boundary_of("multipart/form-data; " + text)
    parse_duration(text)
    head = Head([(b"Connection", data), (b"Accept-Encoding", data), (b"X", data)])
    headers_for_upstream(head, (b"Authorization", b"x"), readable=False)


def _answer(data: bytes) -> None:
    headers = Head([(b"retry-after", data[:100])])
    for status in (400, 429):
        classify.classify(status, headers, data)
    classify.classify_stream_error(data)
    classify.failure_in(data)
    object_in(data)
    read_usage(data)
    answering_model(data)
    with contextlib.suppress(*BROKEN):
        answer_ids.made_by(data, ids.RESPONSE)


_CACHED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/moderations")


def _cacheable(data: bytes) -> None:
    if has_too_many_values(data):
        return
    for target in _CACHED:
        endpoint = resolve("POST", target)
        assert isinstance(endpoint, Endpoint)
        canonical(endpoint, "POST", target, data)
        unstorable(endpoint, Canonical(b""), data, tools=True)
    for streamed in (True, False):
        members = OwnMembers(b'{"user":"u"}', streamed=streamed)
        for piece in _pieces(data):
            members.feed(piece)
        members.finish()
    cache_control(Head([(b"cache-control", data)]))


_redactor = Redactor([_SECRET])


def _redact(data: bytes) -> None:
    _redactor.clean_bytes(data)


PARSERS: dict[str, Parser] = {
    "form": _form,
    "stream": _stream,
    "replay": _replay,
    "request": _request,
    "names": _names,
    "event": _event,
    "set_member": _set_member,
    "encoded": _encoded,
    "target": _target,
    "header": _header,
    "answer": _answer,
    "cacheable": _cacheable,
    "redaction": _redact,
}

# What a pattern or a scan may trip over, repeated in the places where it may stand.
ATOMS = [
    b"name=file_id;", b' name="a";', b"filename=", b"\r\n", b"\n\n", b"\r", b"--b", b"--b\r\n", b"\r\n--b\r\n",
    b'\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nfile-1', b"x: y\r\n", b"[", b"[],", b"{}", b'{"a":',
    b'"a":1,', b'"', b'"",', b"\\", b'\\"', b'"model"', b'"model":"x",', b'"file_ids":["f"],', b'"type":"file_id",',
    b'"usage": null,', b'"usage"', b'"stream_options":{', b"1,", b"1", b"-", b"1e5,", b" ", b"\t", b"\x00", b"\xff",
    b"%", b"%25", b"/", b"/..", b"//", b"a=&", b"after=a&", b";", b",", b"boundary=", b"charset ", b"data: ",
    b"data: {}\n\n", b"event: error\n", b": x\n", b"limit: 1", b"Limit 1,", b"try again in 1", b"sk-", b"sk-proj-",
    b"eyJ", b"Bearer ", b"file-", b"\x1f\x8b\x08", b"\\u0061", b"\\ud800", b"\xed\xa0\x80", b"<", b"a",
]  # fmt: skip
PLACES = [
    (b"", b""),
    (b'{"model":"m","input":"', b'"}'),
    (b'{"model":"m","input":[', b"1]}"),
    (b'{"error":{"message":"', b'"}}'),
    (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n', b"\r\n--b--\r\n"),
    (b"--b\r\nContent-Disposition: form-data; ", b"\r\n\r\nx\r\n--b--\r\n"),
    (b'data: {"choices":[{"delta":{"content":"', b'"}}]}\n\n'),
    (b'data: {"choices":[{"index":0,"finish_reason":"stop","delta":{"x":[', b"{}]}}]}\n\ndata: [DONE]\n\n"),
    (b'{"choices":[{"index":0,"message":{"content":"', b'"},"text":""}]}'),
]
SEEDS = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
