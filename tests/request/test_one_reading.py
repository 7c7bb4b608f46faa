"""What rights depend on has one reading: what could be read in two ways is refused before anything is sent."""

from __future__ import annotations

import gzip
import json
import zlib

import brotli
import pytest
from quotapool.openai.ids import CONTAINER, FILE

from tests.fakes.edge import Client, Reply, says

ANN, BOB, SOME = "the-key-of-ann-0001", "the-key-of-bob-0001", "the-key-of-some-001"
CLIENTS = [
    {"id": "ann", "key": ANN},
    {"id": "bob", "key": BOB},
    {"id": "some", "key": SOME, "models": ["gpt-4o", "gpt-realtime", "whisper-1"]},
]
JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "multipart/form-data; boundary=b")
BOX = "/v1/containers/cntr_1/files"


@pytest.fixture
async def pool(open_pool):
    """Ann's file, Bob's file and container are known."""
    opened = await open_pool({"a": 1}, clients=CLIENTS, objects={"search": False})
    opened.upstream.otherwise = says(200, {"id": "x", "object": "x"})
    for refs, client in (([(FILE, "file-ann")], "ann"), ([(FILE, "file-bob"), (CONTAINER, "cntr_1")], "bob")):
        await opened.paths.owners.remember(refs, "a", client)
    return opened


async def ask(pool, body, target="/v1/vector_stores", *headers, key=BOB, method="POST") -> Client:
    pieces = body if isinstance(body, list) else [body]
    return await pool.ask(Client(pieces, method=method, target=target, more_headers=list(headers), key=key))


def form(*parts: tuple[str, bytes]) -> bytes:
    heads = [b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value + b"\r\n"
             for head, value in parts]  # fmt: skip
    return b"".join(heads) + b"--b--\r\n"


NAMES_ANNS = b'{"file_ids":["file-ann"]}'


@pytest.mark.parametrize(
    ("body", "encodings", "code"),
    [
        (
            gzip.compress(b'{"name":"x"}', mtime=0) + gzip.compress(NAMES_ANNS, mtime=0),
            ["gzip"],
            "unsupported_encoding",
        ),
        (gzip.compress(b'{"name":"x"}', mtime=0) + b"\n", ["gzip"], "unsupported_encoding"),
        (zlib.compress(NAMES_ANNS), ["gzip", "deflate"], "unsupported_encoding"),
        (gzip.compress(NAMES_ANNS, mtime=0), ["gzip", "identity"], "unsupported_encoding"),
        (NAMES_ANNS, ["identity", "gzip"], "unsupported_encoding"),
        (NAMES_ANNS, ["x-new"], "unsupported_encoding"),
        (b" " * 100 + b'{"file_ids":["file-ann"],"x":"\x01"}', [], "invalid_json"),
    ],
    ids=["two members", "trailing data", "two lines", "gzip and none", "none and gzip", "unknown", "behind blanks"],
)
async def test_a_body_that_hides_what_it_names_is_refused(pool, body, encodings, code):
    refused = await ask(pool, body, "/v1/vector_stores", JSON, *[("Content-Encoding", one) for one in encodings])
    assert (refused.status, refused.error["code"]) == (400, code)
    assert pool.upstream.sent == []


async def test_a_body_in_any_encoding_that_is_read_names_what_it_names(pool):
    for encoding, pack in (("br", brotli.compress), ("gzip", gzip.compress), ("deflate", zlib.compress)):
        headers = JSON, ("Content-Encoding", encoding)
        assert (await ask(pool, pack(NAMES_ANNS), "/v1/vector_stores", *headers)).status == 400
        mine = pack(b'{"file_ids":["file-bob"]}')
        assert (await ask(pool, mine, "/v1/vector_stores", *headers)).status == 200
        assert pool.upstream.sent[-1].body == mine
    assert len(pool.upstream.sent) == 3


async def test_two_content_types_are_refused(pool):
    for first, second in ((JSON, FORM), (FORM, JSON), (JSON, JSON)):
        refused = await ask(pool, NAMES_ANNS, "/v1/vector_stores", first, second)
        assert (refused.status, refused.error["code"]) == (400, "unsupported_encoding")
    assert pool.upstream.sent == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "x-new"])
async def test_an_encoded_form_is_refused_where_it_may_name_an_object(pool, encoding):
    refused = await ask(pool, b"whatever", BOX, FORM, ("Content-Encoding", encoding))
    assert (refused.status, refused.error["code"]) == (400, "unsupported_encoding")
    assert pool.upstream.sent == []


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (form(('name="x"; name="file_id"', b"file-ann")), FORM[1], "invalid_form"),
        (form(('name="file_id"', b"file-ann")), FORM[1] + "; boundary=c", "invalid_form"),
        (form(('name="file_id"', b"file-ann")), "multipart/mixed; boundary=b", "invalid_form"),
        (form(('name="file_id"', b"file-ann")), "application/octet-stream", "unsupported_encoding"),
        (b'  {"file_id":"file-ann"}', "application/octet-stream", "unsupported_encoding"),
        (form(('name="file_id"', b"file-ann")), FORM[1], None),  # another client's
    ],
)
async def test_a_form_that_hides_an_object_is_refused(pool, body, content_type, code):
    refused = await ask(pool, body, BOX, ("Content-Type", content_type))
    assert (refused.status, refused.error["code"]) == (400, code)


async def test_a_form_that_names_its_own_object_passes_byte_for_byte(pool):
    body = form(('name="file_id"', b"file-bob"), ('name="file"; filename="a.txt"', b"x" * 5000))
    passed = await ask(pool, [body[at : at + 7] for at in range(0, len(body), 7)], BOX, FORM)
    assert passed.status == 200
    assert pool.upstream.sent[-1].body == body


# ---- models


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/responses", b'{"model":"gpt-4o","tools":[{"type":"image_generation","model":"gpt-image-1"}]}'),
        ("/v1/responses", b'{"model":"gpt-4o","input":"x","tools":[{"\\u006dodel":"gpt-image-1"}]}'),
        ("/v1/responses", b'{"model":"gpt-image-1","model":"gpt-4o","input":"x"}'),
        ("/v1/chat/completions", b'{"model":"gpt-image-1","messages":[],"mod\\u0065l":"gpt-4o"}'),
        ("/v1/realtime/client_secrets",
         b'{"model":"gpt-realtime","session":{"audio":{"input":{"transcription":{"model":"gpt-image-1"}}}}}'),
        ("/v1/realtime/sessions", b'{"model":"gpt-realtime","input_audio_transcription":{"model":"gpt-image-1"}}'),
        ("/v1/vector_stores", b'{"name":"x","grader":{"model":"gpt-image-1"}}'),
        ("/v1/chat/completions", b'{"model":"gpt-4o","models":["gpt-4o","gpt-image-1"],"messages":[]}'),
    ],
)  # fmt: skip
async def test_every_model_in_a_body_must_be_the_clients(pool, target, body):
    for sent, headers in ((body, [JSON]), (gzip.compress(body), [JSON, ("Content-Encoding", "gzip")])):
        refused = await ask(pool, sent, target, *headers, key=SOME)
        assert (refused.status, refused.error["code"]) == (403, "model_not_allowed"), refused.got
        assert "gpt-image-1" in refused.error["message"]
    assert pool.upstream.sent == []


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "image_generation", "model": "gpt-4o"}]},
        {"metadata": {"model": "Model T"}},
        {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"model": {"default": "x"}}}}]},
        {"input": 'the "model" of {"model": "gpt-image-1"}'},
    ],
)
async def test_what_is_the_users_own_is_no_model(pool, more):
    body = json.dumps({"model": "gpt-4o", "input": "x", **more}).encode()
    assert (await ask(pool, body, "/v1/responses", JSON, key=SOME)).status == 200


@pytest.mark.parametrize(
    "head",
    [
        'name="prompt"\r\nX-Y: a; name="model"',
        'name ="model"',
        'name="prompt"; name="model"',
        'name="prompt"\r\n name=x',
    ],
)
async def test_a_form_that_hides_a_second_model_is_refused(pool, head):
    body = form(('name="model"', b"whisper-1"), (head, b"gpt-image-1"))
    refused = await ask(pool, body, "/v1/audio/transcriptions", FORM, key=SOME)
    assert (refused.status, refused.error["code"]) == (400, "invalid_form")
    for twice in (['name="model"', 'name="model"'], ['name="model"', 'name="model"; filename="x"']):
        parts = zip(twice, [b"whisper-1", b"gpt-image-1"], strict=True)
        refused = await ask(pool, form(*parts), "/v1/audio/transcriptions", FORM, key=SOME)
        assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
    assert pool.upstream.sent == []


async def test_a_form_without_an_end_is_refused_where_its_model_matters(pool):
    body = form(('name="model"', b"whisper-1"))[:-8]
    refused = await ask(pool, body, "/v1/audio/transcriptions", FORM, key=SOME)
    assert (refused.status, refused.error["code"]) == (400, "invalid_form")


# ---- bounds


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"gpt-4o","messages":[' + b"[]," * 5_000_000 + b"1]}",
        b'{"model":"gpt-4o","messages":[],"file_ids":[' + b'"file-1",' * 1_000_000 + b"1]}",
        b'{"model":"gpt-4o","messages":' + (b"[" * 300 + b"]" * 300 + b",") * 5_000 + b"1}",
        b'{"model":"gpt-4o","messages":[' + b'{"a":0},' * 1_000_000 + b"1]}",
    ],
    ids=["arrays", "ids", "nested", "objects"],
)
async def test_a_body_that_is_large_only_when_decoded_is_refused(pool, text):
    for body, headers in ((text, [JSON]), (gzip.compress(text, 1), [JSON, ("Content-Encoding", "gzip")])):
        for target in ("/v1/chat/completions", "/v1/vector_stores"):
            refused = await ask(pool, body, target, *headers)
            assert (refused.status, refused.error["code"]) == (413, "body_too_large")
    assert pool.upstream.sent == []


async def test_a_body_of_long_texts_passes_whatever_is_in_them(pool):
    code = 'if (a[0], b) { return "[{,"; } ' * 60_000
    body = json.dumps({"model": "gpt-4o", "input": [{"role": "user", "content": code}] * 2}).encode()
    assert (await ask(pool, body, "/v1/responses", JSON)).status == 200


async def test_a_body_may_name_many_objects_but_not_any_number(pool):
    many = json.dumps({"file_ids": [f"file-{n}" for n in range(5_000)]}).encode()
    refused = await ask(pool, many, "/v1/vector_stores", JSON)
    assert (refused.status, refused.error["code"]) == (400, "invalid_json")
    assert pool.upstream.sent == []


# ---- targets, and lists of unknown kinds


async def test_a_target_with_a_fragment_is_refused(pool):
    for target in ("/v1/files/file-bob#/../file-ann", "/v1/responses#x", "/v1/files?after=file-bob#"):
        refused = await ask(pool, b"", target, method="GET")
        assert (refused.status, refused.error["code"]) == (400, "invalid_http")


async def test_a_list_of_an_unknown_kind_is_asked_for_uncompressed(pool):
    accepts = [("Accept-Encoding", "gzip, deflate")]
    listing = {"object": "list", "data": [{"id": "file-ann"}, {"id": "file-bob"}]}
    pool.upstream.otherwise = says(200, listing)
    client = await ask(pool, b"", "/v1/newthings", *accepts, method="GET")
    assert pool.upstream.sent[-1].headers.getall("Accept-Encoding") == ["identity"]
    assert [entry["id"] for entry in json.loads(client.got)["data"]] == ["file-bob"]
    packed = gzip.compress(json.dumps(listing).encode())
    pool.upstream.otherwise = Reply(pieces=[packed]).named(Content_Encoding="gzip")
    assert (await ask(pool, b"", "/v1/newthings", *accepts, method="GET")).status == 502
