"""GET /v1/models: all that the pool has, kept, in OpenAI's layout; and what a client may use of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from quotapool.domain.pool import Key, Pool
from quotapool.domain.request_record import RequestRecord
from quotapool.pool.configuration import Configuration
from quotapool.request.models import Catalogue, listed, may_use, read_listing
from quotapool.settings import Client as Known
from quotapool.settings import Settings

from tests.fakes.edge import Client, FakeUpstream, Reply, chat_body, error
from tests.fakes.house import House, open_house, snapshot_of

ALL, APP = "the-key-of-all-0001", "the-key-of-app-0001"
CLIENTS = [
    {"id": "all", "key": ALL},
    {"id": "app", "key": APP, "models": ["gpt-4o-mini", "text-embedding-*", "gpt-image-1", "whisper-*"]},
]


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1686935002, "owned_by": "openai", **more}


def listing(*names: str) -> Reply:
    """As api.openai.com lays it out."""
    document = {"object": "list", "data": [model(name) for name in names]}
    return Reply(pieces=[json.dumps(document, indent=2).encode() + b"\n"])


@pytest.fixture
async def house(valkey_url):
    async with open_house(valkey_url, {"a": 1, "b": 1, "c": 1}, clients=CLIENTS) as opened:
        opened.upstream.always = {
            "a1": listing("gpt-4o", "gpt-4o-mini"),
            "b1": listing("gpt-4o", "text-embedding-3-small"),
            "c1": listing("gpt-4o", "ft:gpt-4o:acme::x"),
        }
        yield opened


async def get(house: House, target: str = "/v1/models", method: str = "GET", key: str = ALL) -> Client:
    client = Client(method=method, target=target, more_headers=[], key=key)
    return await house.ask(client, RequestRecord("t", time.monotonic(), method))


def names(client: Client) -> list[str]:
    return [entry["id"] for entry in json.loads(client.got)["data"]]


async def test_it_lists_what_all_accounts_have_once_each(house):
    client = await get(house)
    assert client.status == 200
    assert sorted(names(client)) == ["ft:gpt-4o:acme::x", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]
    assert client.header("content-type") == "application/json"
    assert client.header("x-quotapool-source") == "proxy"


async def test_it_is_kept_and_costs_no_budget(house):
    for _ in range(5):
        await get(house)
    assert len(house.upstream.sent) == 3  # each account once
    assert house.grants.granted == []
    assert house.is_idle()


async def test_an_account_that_does_not_answer_takes_nothing_away(house):
    house.upstream.always["a1"] = error(500, None)
    house.upstream.always["c1"] = Reply(pieces=[b"<html>"])
    assert sorted(names(await get(house))) == ["gpt-4o", "text-embedding-3-small"]


async def test_if_nobody_tells_the_request_goes_upstream_as_any_other(house):
    house.upstream.always = {key: error(404, "nothing") for key in ("a1", "b1", "c1")}
    client = await get(house)
    assert (client.status, client.header("x-quotapool-source")) == (404, "upstream")


async def test_one_model_is_told_from_what_is_known_and_asked_for_where_it_is_not(house):
    client = await get(house, "/v1/models/gpt-4o")
    assert json.loads(client.got) == model("gpt-4o")
    assert len(house.upstream.sent) == 3
    house.upstream.always = {key: error(404, "model_not_found") for key in ("a1", "b1", "c1")}
    client = await get(house, "/v1/models/never-heard-of")
    assert client.status == 404
    assert house.upstream.sent[-1].target == "/v1/models/never-heard-of"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama%2FLlama-3.1-8B"),
        ("my model", "my%20model"),
        ("accounts/x/models/y", "accounts/x/models/y"),
    ],
)
async def test_a_model_whose_name_has_slashes_or_blanks_is_one_model(house, name, target):
    house.upstream.always["b1"] = listing("gpt-4o", name)
    client = await get(house, f"/v1/models/{target}")
    assert json.loads(client.got) == model(name)
    hidden = await get(house, f"/v1/models/{target}", key=APP)
    assert (hidden.status, hidden.error["code"]) == (404, "model_not_available")
    house.upstream.always = {key: error(404, "model_not_found") for key in ("a1", "b1", "c1")}
    client = await get(house, f"/v1/models/{target}-2")
    assert (client.status, house.upstream.sent[-1].target) == (404, f"/v1/models/{target}-2")


async def test_a_pool_of_one_account_passes_its_answer_through(valkey_url):
    async with open_house(valkey_url, {"a": 2}) as house:
        house.upstream.otherwise = listing("gpt-4o")
        client = await get(house)
        assert client.got == house.upstream.otherwise.pieces[0]
        assert client.header("x-quotapool-source") == "upstream"


async def test_an_account_with_names_of_its_own_is_known_by_these(valkey_url):
    own = {"url": "http://127.0.0.1:9", "models": {"gpt-4.1": "acme-41", "o3": "o3"}}
    key = {"id": "a1", "account": "a", "secret": f"sk-test-{'x' * 40}", "upstream": own}
    async with open_house(valkey_url, {}, keys=[key]) as house:
        client = await get(house)
        assert names(client) == ["gpt-4.1", "o3"]
        assert {entry["object"] for entry in json.loads(client.got)["data"]} == {"model"}
        assert house.upstream.sent == []


def test_the_layout_is_openais_byte_for_byte():
    entries = [model("gpt-4o"), model("o3", extra={"a": [1.50]})]
    as_openai = (json.dumps({"object": "list", "data": entries}, indent=2) + "\n").encode()
    assert listed(read_listing(as_openai).values()) == as_openai
    assert json.loads(listed([])) == {"object": "list", "data": []}


# ---- what a client may use


async def test_a_limited_client_sees_only_its_models(house):
    assert sorted(names(await get(house, key=APP))) == ["gpt-4o-mini", "text-embedding-3-small"]
    hidden = await get(house, "/v1/models/gpt-4o", key=APP)
    assert (hidden.status, hidden.error["code"], hidden.error["param"]) == (404, "model_not_available", "model")
    assert (await get(house, "/v1/models/ft:gpt-4o:acme::x", "DELETE", key=APP)).status == 404
    assert (await get(house, "/v1/models/gpt-4o-mini", key=APP)).status == 200


async def ask(house: House, body: bytes | list[bytes], target: str = "/v1/chat/completions", **more: Any) -> Client:
    return await house.ask(Client(body, target=target, key=APP, **more))


async def test_a_limited_client_may_use_its_models_and_no_other(house):
    house.upstream.always = {}
    assert (await ask(house, chat_body("gpt-4o-mini"))).status == 200
    sent = len(house.upstream.sent)
    refused = await ask(house, chat_body("gpt-4o"))
    assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "model_not_allowed", "model")
    for target, body in {
        "/v1/images/generations": b'{"model": "dall-e-3", "prompt": "x"}',
        "/v1/responses": b'{"model": "o3", "input": "x"}',
        "/v1/batches": b'{"input_file_id": "file-1", "endpoint": "/v1/chat/completions"}',  # its models nobody can see
        "/v1/realtime/client_secrets": b'{"session": {"type": "realtime"}}',
        "/v1/assistants": b'{"model": "gpt-4o"}',
        "/v1/evals/eval_1/runs": b'{"data_source": {"model": "gpt-4o"}}',
        "/v1/engines/gpt-4o/completions": b'{"prompt": "x"}',
    }.items():
        refused = await ask(house, body, target)
        assert (refused.status, refused.error["code"]) == (403, "model_not_allowed"), target
    assert len(house.upstream.sent) == sent
    assert (await ask(house, b'{"name": "x"}', "/v1/vector_stores")).status == 200


FORM = [("Content-Type", "multipart/form-data; boundary=b")]


def part(what: str, value: bytes) -> bytes:
    return b"--b\r\nContent-Disposition: form-data; " + what.encode() + b"\r\n\r\n" + value + b"\r\n"


async def test_a_forms_model_counts_wherever_it_stands(house):
    house.upstream.always = {}
    audio = part('name="file"; filename="a.mp3"', b"x" * 300_000)
    for name, status in (("whisper-1", 200), ("gpt-4o-transcribe", 403)):
        whole = audio + part('name="model"', name.encode()) + b"--b--\r\n"
        pieces = [whole[at : at + 50_000] for at in range(0, len(whole), 50_000)]
        client = await ask(house, pieces, "/v1/audio/transcriptions", more_headers=FORM)
        assert client.status == status, client.got
    assert house.upstream.sent[-1].body == audio + part('name="model"', b"whisper-1") + b"--b--\r\n"
    twice = part('name="model"', b"whisper-1") + audio + part('name="model"', b"gpt-4o-transcribe") + b"--b--\r\n"
    pieces = [twice[at : at + 50_000] for at in range(0, len(twice), 50_000)]
    assert (await ask(house, pieces, "/v1/audio/transcriptions", more_headers=FORM)).status == 403
    nameless = await ask(house, audio + b"--b--\r\n", "/v1/audio/transcriptions", more_headers=FORM)
    assert nameless.status == 403


async def test_compression_hides_no_model(house):
    import gzip

    body = gzip.compress(b'{"model": "dall-e-3", "prompt": "x"}')
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    assert (await ask(house, body, "/v1/images/generations", more_headers=headers)).status == 403


def test_a_client_without_a_list_may_use_everything():
    free = Known.model_validate({"id": "x", "key_hash": "1" * 64})
    assert may_use(free, "anything")
    assert may_use(None, "anything")


# ---- large pools


async def test_a_pool_of_thousands_is_learned_bit_by_bit():
    pool = Pool(Key(f"k{n}", f"a{n}", f"f{n}") for n in range(1000))
    asked: list[str] = []

    async def fetch(account: str, target: str) -> tuple[int, bytes]:
        assert target == "/v1/models"
        asked.append(account)
        return 200, listing("gpt-4o", f"ft:{int(account[1:]) // 500}").pieces[0]

    catalogue = Catalogue(Configuration(snapshot_of(Settings(), FakeUpstream({}))), pool, fetch)
    assert "gpt-4o" in await catalogue.models(None)
    assert len(asked) == 32
    for _ in range(40):
        await asyncio.sleep(31)
        await catalogue.models(None)
        if catalogue._refreshing is not None:
            await catalogue._refreshing
    assert len(asked) == 41 * 32
    assert len(set(asked)) == 1000  # nobody is asked again before everybody was asked once
    assert set(await catalogue.models(None)) == {"gpt-4o", "ft:0", "ft:1"}
    assert len(catalogue._sets) == 2  # what accounts have in common is kept once
