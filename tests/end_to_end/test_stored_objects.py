"""Stored objects find their way home: five accounts, clients that say nothing about accounts, the official SDKs."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import subprocess
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until

MODEL = "gpt-4o-mini"
ALICE, BOB = "alice-client-key-0123456789", "bob-client-key-0123456789abc"
CLIENTS = [{"id": "alice", "key": ALICE}, {"id": "bob", "key": BOB}]
MULTIPART: Any = {"headers": {"Content-Type": "multipart/form-data"}}
BATCH_LINES = b'{"custom_id":"one","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini"}}\n'


@pytest.fixture
def pool(
    start_simulator: Callable[..., Simulator], start_proxy: Callable[..., RunningProxy]
) -> Callable[..., RunningProxy]:
    """`pool(**options)`: a proxy over five accounts of one key each."""

    def start(**options: Any) -> RunningProxy:
        return start_proxy(pool_config(start_simulator(5), **options))

    return start


def sdk(proxy: RunningProxy, key: str = "anything") -> OpenAI:
    return OpenAI(base_url=proxy.base_url, api_key=key, max_retries=0)


def finished(client: OpenAI, batch_id: str) -> Any:
    deadline = time.monotonic() + 10
    while (batch := client.batches.retrieve(batch_id)).status != "completed":
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    return batch


def refusal(call: Callable[[], Any], *ids: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and steering headers of a refused call, with the ids taken out: what a client can see."""
    with pytest.raises(APIStatusError) as caught:
        call()
    response = caught.value.response
    body = response.content
    for object_id in ids:
        body = body.replace(object_id.encode(), b"<id>")
    # `connection: close` only says that the end of a form was still on its way when it was refused.
    varying = {"date", "x-quotapool-request-id", "content-length", "x-request-id", "connection"}
    return response.status_code, body, {k: v for k, v in response.headers.items() if k not in varying}


def test_an_sdk_that_knows_of_no_accounts_finds_everything_it_stored(pool):
    proxy = pool()
    client = sdk(proxy)

    file = client.files.create(file=("in.jsonl", BATCH_LINES), purpose="batch")
    assert client.files.content(file.id).read() == BATCH_LINES
    assert client.files.retrieve(file.id).filename == "in.jsonl"
    assert [f.id for f in client.files.list()] == [file.id]

    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    output = finished(client, batch.id).output_file_id
    assert json.loads(client.files.content(output).read())["custom_id"] == "one"

    store = client.vector_stores.create(name="docs", file_ids=[file.id])
    assert [f.id for f in client.vector_stores.files.list(store.id)] == [file.id]
    searched = client.responses.create(
        model=MODEL, input="look it up", tools=[{"type": "file_search", "vector_store_ids": [store.id]}]
    )
    assert searched.status == "completed"

    upload = client.uploads.create(bytes=4, filename="u.txt", mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"quad")
    completed = client.uploads.complete(upload.id, part_ids=[part.id])
    assert completed.file is not None
    assert client.files.content(completed.file.id).read() == b"quad"

    conversation = client.conversations.create(items=[{"type": "message", "role": "user", "content": "hi"}])
    client.responses.create(model=MODEL, input="and?", conversation=conversation.id)
    client.responses.create(model=MODEL, input="and?", conversation={"id": conversation.id})
    assert len(list(client.conversations.items.list(conversation.id))) == 3

    container = client.containers.create(name="box")
    inside = client.containers.files.create(container.id, file=("a.txt", b"inside"))
    assert client.containers.files.content.retrieve(inside.id, container_id=container.id).read() == b"inside"

    client.files.delete(file.id)
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)


def test_anonymous_responses_spread_and_their_chains_follow(pool):
    """100 over five accounts: each gets 10 to 30, and each chain stays where it began."""
    proxy = pool()
    client = sdk(proxy)
    with ThreadPoolExecutor(8) as threads:
        first = list(threads.map(lambda n: client.responses.create(model=MODEL, input=f"hello {n}"), range(100)))
    keys = Counter(line["attempts"][-1]["key"] for line in lines_of(proxy, 100))
    assert len(keys) == 5
    assert all(10 <= count <= 30 for count in keys.values()), keys

    def goes_on(response: Any) -> Any:
        with client.responses.stream(model=MODEL, input="go on", previous_response_id=response.id) as stream:
            streamed = stream.get_final_response()
        return client.responses.create(model=MODEL, input="and on", previous_response_id=streamed.id)

    with ThreadPoolExecutor(8) as threads:
        last = list(threads.map(goes_on, first[:30]))
    assert client.responses.retrieve(last[0].id).id == last[0].id
    assert client.responses.input_items.list(last[0].id).data
    client.responses.delete(last[0].id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(last[0].id)


def test_references_to_items_follow_too(pool):
    proxy = pool()
    client = sdk(proxy)
    for n in range(10):
        made = client.responses.create(model=MODEL, input=f"hello {n}")
        client.responses.create(model=MODEL, input=[{"type": "item_reference", "id": made.output[0].id}])
        client.responses.create(model=MODEL, input=[{"id": made.output[0].id}, {"role": "user", "content": "and?"}])
        client.responses.create(model=MODEL, input=[*made.output, {"role": "user", "content": "and?"}])


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "anonymous"])
def test_codex_goes_on_over_a_websocket_and_over_http(pool, keyed):
    """Codex sends its own words in each request, stores nothing, and goes on from the connection's own memory."""
    proxy = pool(workers=2, **({"clients": CLIENTS} if keyed else {}))
    codex: Any = {"model": MODEL, "store": False, "extra_body": {"client_metadata": {"thread_id": str(uuid.uuid4())}}}
    client = sdk(proxy, ALICE)
    for n in range(4):
        assert client.responses.create(input=f"hi {n}", **codex).status == "completed"

    async def talk() -> str:
        over_socket = AsyncOpenAI(base_url=proxy.base_url, api_key=ALICE, max_retries=0)
        previous: dict[str, str] = {}
        async with asyncio.timeout(20), over_socket.responses.connect() as connection:
            for turn in range(3):
                metadata = {"thread_id": str(uuid.uuid4())}
                await connection.send(
                    {"type": "response.create", "model": MODEL, "input": f"turn {turn}", "store": False,
                     "client_metadata": metadata, **previous}
                )  # fmt: skip
                async for event in connection:
                    assert event.type != "error", event
                    if event.type == "response.completed":
                        previous = {"previous_response_id": event.response.id}
                        break
        return previous["previous_response_id"]

    made = [asyncio.run(talk()) for _ in range(3)]
    for response in made:  # its account answers that it kept nothing, not the proxy
        with pytest.raises(BadRequestError) as gone:
            client.responses.create(input="go on", previous_response_id=response, **codex)
        assert gone.value.response.headers["x-quotapool-source"] == "upstream"


def test_a_name_with_slashes_is_a_models(pool):
    proxy = pool()
    for name in ("meta-llama/Llama-3.1-8B", "meta-llama%2FLlama-3.1-8B", "meta%20llama"):
        status, body = fetch(f"{proxy.base_url}/models/{name}")
        assert (status, json.loads(body)["id"]) == (200, unquote(name)), body


def test_stored_chats_are_found_and_others_are_not_looked_for(pool):
    proxy = pool()
    client = sdk(proxy)
    for _ in range(10):
        said = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], store=True)
        assert client.chat.completions.retrieve(said.id).id == said.id


def lines_of(proxy: RunningProxy, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(proxy.request_lines()) >= count, "the request log is written")
    return proxy.request_lines()


def test_another_clients_ids_answer_as_if_they_did_not_exist(pool):
    proxy = pool(clients=CLIENTS)
    alice, bob = sdk(proxy, ALICE), sdk(proxy, BOB)
    file = alice.files.create(file=("a.jsonl", BATCH_LINES), purpose="batch").id
    batch = alice.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id
    output = finished(alice, batch).output_file_id
    store = alice.vector_stores.create(file_ids=[file]).id
    response = alice.responses.create(model=MODEL, input="secret").id
    conversation = alice.conversations.create().id
    container = alice.containers.create(name="box").id
    item = alice.responses.retrieve(response).output[0].id
    chat = alice.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], store=True).id

    def asks(client: OpenAI, object_id: str, kind: str) -> list[Callable[[], Any]]:
        tool = {"type": "file_search", "vector_store_ids": [object_id]}
        box = {"type": "code_interpreter", "container": object_id}
        shell = {"type": "shell", "environment": {"type": "container_reference", "container_id": object_id}}
        part = {"role": "user", "content": [{"type": "input_file", "file_id": object_id}]}
        create = client.responses.create
        return {
            "file": [
                lambda: client.files.retrieve(object_id),
                lambda: client.files.content(object_id),
                lambda: client.files.delete(object_id),
                lambda: client.files.list(after=object_id),
                lambda: client.vector_stores.create(file_ids=[object_id]),
                lambda: client.fine_tuning.jobs.create(model=MODEL, training_file=object_id),
                lambda: client.batches.create(
                    input_file_id=object_id, endpoint="/v1/responses", completion_window="24h"
                ),
                lambda: create(model=MODEL, input=[part]),
                lambda: client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": object_id}}]}],
                ),
            ],
            "batch": [lambda: client.batches.retrieve(object_id), lambda: client.batches.cancel(object_id)],
            "vector_store": [
                lambda: client.vector_stores.retrieve(object_id),
                lambda: client.vector_stores.files.list(object_id),
                lambda: client.vector_stores.delete(object_id),
                lambda: create(model=MODEL, input="x", tools=[tool]),
            ],
            "response": [
                lambda: client.responses.retrieve(object_id),
                lambda: client.responses.delete(object_id),
                lambda: client.responses.input_items.list(object_id),
                lambda: create(model=MODEL, input="x", previous_response_id=object_id),
            ],
            "conversation": [
                lambda: client.conversations.retrieve(object_id),
                lambda: client.conversations.items.list(object_id),
                lambda: create(model=MODEL, input="x", conversation=object_id),
                lambda: create(model=MODEL, input="x", conversation={"id": object_id}),
            ],
            "container": [
                lambda: client.containers.retrieve(object_id),
                lambda: create(model=MODEL, input="x", tools=[box]),
                lambda: create(model=MODEL, input="x", tools=[shell]),
            ],
            "item": [
                lambda: create(model=MODEL, input=[{"type": "item_reference", "id": object_id}]),
                lambda: create(model=MODEL, input=[{"id": object_id}]),
                lambda: create(model=MODEL, input=[{"type": "reasoning", "id": object_id, "summary": []}]),
            ],
            "chat": [lambda: client.chat.completions.retrieve(object_id)],
        }[kind]

    made = {
        "file": [file, output], "batch": [batch], "vector_store": [store], "response": [response],
        "conversation": [conversation], "container": [container], "item": [item], "chat": [chat],
    }  # fmt: skip
    for kind, ids in made.items():
        for object_id in ids:
            unknown = object_id[:-6] + "000000"
            for foreign, missing in zip(asks(bob, object_id, kind), asks(bob, unknown, kind), strict=True):
                seen = refusal(foreign, object_id)
                assert seen == refusal(missing, unknown), kind
                assert seen[0] in {400, 404}

    box = bob.containers.create(name="mine").id
    unknown = file[:-6] + "000000"
    seen = refusal(lambda: bob.post(f"/containers/{box}/files", **form(file)), file)
    assert seen == refusal(lambda: bob.post(f"/containers/{box}/files", **form(unknown)), unknown)
    assert seen[0] == 400
    bob.containers.delete(box)
    assert list(bob.files.list()) == []
    assert list(bob.batches.list()) == []
    assert list(bob.vector_stores.list()) == []
    assert list(bob.containers.list()) == []
    assert {f.id for f in alice.files.list()} == {file, output}
    assert alice.responses.retrieve(response).id == response


def test_no_way_to_send_a_body_hides_what_it_names(start_simulator, start_proxy):
    """Given one account, so that upstream would serve it all, I expect each of these to be refused here."""
    proxy = start_proxy(pool_config(start_simulator(1), clients=CLIENTS))
    alice, bob = sdk(proxy, ALICE), sdk(proxy, BOB)
    file = alice.files.create(file=("a", b"secret"), purpose="user_data").id
    box = f"/containers/{bob.containers.create(name='mine').id}/files"
    body = json.dumps({"file_ids": [file]}).encode()
    fields = f'--b\r\nContent-Disposition: form-data; NAME="file_id"\r\n\r\n{file}\r\n--b--\r\n'.encode()
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    packed = {"Content-Encoding": "gzip"}
    attempts: list[tuple[str, bytes, dict[str, str]]] = [
        ("/vector_stores", body, {"Content-Type": "text/plain"}),
        ("/vector_stores", body, {"Content-Type": "application/x+json"}),
        ("/vector_stores", body, {}),
        ("/vector_stores", body + b" and more", {"Content-Type": "application/json"}),
        ("/vector_stores", gzip.compress(body), {"Content-Type": "application/json", **packed}),
        (box, fields, multipart),
        (box, gzip.compress(fields), {**multipart, **packed}),
        (box, zlib.compress(fields), {**multipart, "Content-Encoding": "deflate"}),
    ]
    for path, content, headers in attempts:
        connection = http.client.HTTPConnection(proxy.config["listen"], timeout=10)
        connection.request("POST", f"/v1{path}", content, {"Authorization": f"Bearer {BOB}", **headers})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["x-quotapool-source"]) == (400, "proxy"), (path, headers, answer.read())
        connection.close()
    assert bob.vector_stores.create(file_ids=[bob.files.create(file=("b", b"mine"), purpose="user_data").id]).id


def form(file_id: str) -> dict[str, Any]:
    """A multipart form that names a file."""
    return {"cast_to": object, "files": {"file_id": (None, file_id.encode())}, "options": MULTIPART}


def test_the_bodies_of_unknown_ids_are_openais_own(pool):
    """Wordings: captured bodies of api.openai.com, and the Responses WebSocket guide for the previous response."""
    bob = sdk(pool(clients=CLIENTS), BOB)
    with pytest.raises(NotFoundError) as file:
        bob.files.retrieve("file-none")
    assert file.value.body == {
        "message": "No such File object: file-none", "type": "invalid_request_error", "param": "id", "code": None,
    }  # fmt: skip
    with pytest.raises(BadRequestError) as previous:
        bob.responses.create(model=MODEL, input="x", previous_response_id="resp_none")
    assert previous.value.code == "previous_response_not_found"
    assert previous.value.body["message"] == "Previous response with id 'resp_none' not found."
    assert previous.value.param == "previous_response_id"


def test_lists_show_each_client_its_own_objects_where_they_share_an_account(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, clients=CLIENTS))
    alice, bob = sdk(proxy, ALICE), sdk(proxy, BOB)
    a1 = alice.files.create(file=("a", b"1"), purpose="user_data").id
    b1 = bob.files.create(file=("b", b"2"), purpose="user_data").id
    a2 = alice.files.create(file=("c", b"3"), purpose="user_data").id
    assert [f.id for f in alice.files.list()] == [a2, a1]
    assert [f.id for f in bob.files.list(limit=1)] == [b1]  # though the first page shows nothing of Bob's
    raw = bob.files.with_raw_response.list().content
    assert [f["id"] for f in json.loads(raw)["data"]] == [b1]
    lines = alice.files.create(file=("l.jsonl", BATCH_LINES), purpose="batch").id
    batch = alice.batches.create(input_file_id=lines, endpoint="/v1/responses", completion_window="24h").id
    finished(OpenAI(base_url=f"{simulator.url}/v1", api_key=simulator.secrets[0]), batch)
    (listed,) = alice.batches.list()
    assert b'"custom_id":"one"' in alice.files.content(listed.output_file_id).read()  # known from the list alone
    assert list(bob.batches.list()) == []
    assert a1.encode() not in raw
    assert a2.encode() not in raw


def test_owners_are_known_after_a_restart_and_an_account_that_left_is_named(start_simulator, start_proxy, tmp_path):
    simulator = start_simulator(3)
    state = str(tmp_path / "state")
    config = pool_config(simulator, clients=CLIENTS, state_dir=state)
    proxy = start_proxy(config)
    alice = sdk(proxy, ALICE)
    file = alice.files.create(file=("a", b"kept"), purpose="user_data").id
    response = alice.responses.create(model=MODEL, input="hi").id
    home = lines_of(proxy, 2)[0]["attempts"][-1]["key"]
    proxy.stop()

    again = start_proxy(config)
    alice = sdk(again, ALICE)
    assert alice.files.content(file).read() == b"kept"
    assert alice.responses.retrieve(response).id == response
    assert refusal(lambda: sdk(again, BOB).files.retrieve(file), file)[0] == 404
    listed = again.command("objects", "list", "--json")
    assert [(row["id"], row["account"], row["client"]) for row in json.loads(listed.stdout)["objects"]] == [
        (file, home, "alice")
    ]
    assert home in again.command("objects", "find", file).stdout
    again.stop()

    fewer = start_proxy({**config, "keys": [key for key in config["keys"] if key["id"] != home]})
    alice = sdk(fewer, ALICE)
    with pytest.raises(APIStatusError) as gone:
        alice.files.content(file)
    assert gone.value.status_code == 503
    assert gone.value.code == "object_account_unavailable"
    assert alice.files.create(file=("b", b"new"), purpose="user_data").id  # life goes on elsewhere
    assert fewer.command("objects", "forget", file).returncode == 0
    with pytest.raises(NotFoundError):
        alice.files.content(file)


def test_ids_that_live_apart_are_told_apart(pool):
    proxy = pool()
    client = sdk(proxy)
    file = client.files.create(file=("a", b"1"), purpose="user_data").id
    home = lines_of(proxy, 1)[0]["attempts"][-1]["key"]
    while True:
        response = client.responses.create(model=MODEL, input="hi").id
        if lines_of(proxy, len(proxy.request_lines()))[-1]["attempts"][-1]["key"] != home:
            time.sleep(0.3)
            if lines_of(proxy, 1)[-1]["attempts"][-1]["key"] != home:
                break
    part = {"role": "user", "content": [{"type": "input_file", "file_id": file}]}
    with pytest.raises(BadRequestError) as apart:
        client.responses.create(model=MODEL, input=[part], previous_response_id=response)
    assert apart.value.code == "objects_apart"
    assert file in apart.value.message
    assert response in apart.value.message


def test_objects_made_before_the_proxy_are_found_by_search(start_simulator, start_proxy):
    simulator = start_simulator(5)
    direct = OpenAI(base_url=f"{simulator.url}/v1", api_key=simulator.secrets[3])
    files = [direct.files.create(file=("old", b"old"), purpose="user_data").id]
    proxy = start_proxy(pool_config(simulator, objects={"search": True}, clients=CLIENTS))
    assert sdk(proxy, ALICE).files.content(files[0]).read() == b"old"
    assert refusal(lambda: sdk(proxy, BOB).files.content(files[0]))[0] == 404  # who found it has it
    status, _ = fetch(f"{proxy.base_url}/files/file-none", headers={"Authorization": f"Bearer {ALICE}"})
    assert status == 404


NODE_STORY = """
import OpenAI, { toFile } from "openai";
const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "anything", maxRetries: 0 });
const file = await client.files.create({ file: await toFile(Buffer.from("from node"), "n.txt"), purpose: "user_data" });
const content = await (await client.files.content(file.id)).text();
const store = await client.vectorStores.create({ file_ids: [file.id] });
const conversation = await client.conversations.create({});
await client.responses.create({ model, input: "hi", conversation: conversation.id });
let previous;
const chain = [];
for (let n = 0; n < 4; n++) {
  const stream = await client.responses.create({ model, input: "go on", stream: true, previous_response_id: previous });
  for await (const event of stream) if (event.type === "response.completed") previous = event.response.id;
  chain.push((await client.responses.retrieve(previous)).id === previous);
}
console.log(JSON.stringify({ content, store: store.status, chain }));
"""


def test_the_node_sdk_finds_its_objects_too(pool, program, client_programs, tmp_path):
    (tmp_path / "node_modules").symlink_to(client_programs / "node_modules")
    (tmp_path / "story.mjs").write_text(NODE_STORY)
    told = subprocess.run(
        [program("node"), "story.mjs", pool().base_url, MODEL], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {"content": "from node", "store": "completed", "chain": [True] * 4}
