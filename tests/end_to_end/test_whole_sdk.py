"""Everything that the official SDKs do, in one story each: five accounts, two clients with keys, TLS.

Nobody says anything of accounts; Alice finds all that she stored, and Bob none of it. The simulator's transcript tells
the bytes that it heard, and its edited picture is the one that was sent, so what went up is known to have come whole.
"""

from __future__ import annotations

import base64
import io
import json
import os
import ssl
import subprocess
import time
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, DefaultHttpxClient, OpenAI

from tests.fakes.certificates import Authority
from tests.fakes.processes import RunningProxy, Simulator, pool_config, start_proxy_process

MODEL = "gpt-4o-mini"
ALICE, BOB = "alice-client-key-0123456789", "bob-client-key-0123456789abc"
CLIENTS = [{"id": "alice", "key": ALICE}, {"id": "bob", "key": BOB}]
LINES = b'{"custom_id":"one","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini"}}\n'
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # 100 KiB that hold every byte


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pool(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """Five accounts behind two client keys, with TLS."""
    simulator, folder = Simulator.start(5), tmp_path_factory.mktemp("pool")
    authority.issue(folder)
    tls = {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}
    proxy = start_proxy_process(folder, pool_config(simulator, clients=CLIENTS, tls=tls, drain_timeout=0.5))
    proxy.base_url = proxy.base_url.replace("http://", "https://")
    yield proxy
    proxy.stop()
    simulator.stop()


def sound() -> bytes:
    """Two seconds of silence, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
        out.writeframes(bytes(32_000))
    return file.getvalue()


def transcript(heard: bytes) -> str:
    return f"{len(heard)} bytes with the checksum {zlib.crc32(heard):08x}"


def test_the_python_sdk_does_all_it_can_and_another_client_sees_none_of_it(pool, authority):
    trust = ssl.create_default_context(cafile=str(authority.ca_file))

    def sdk(key: str) -> OpenAI:
        return OpenAI(base_url=pool.base_url, api_key=key, max_retries=0, http_client=DefaultHttpxClient(verify=trust))

    with sdk(ALICE) as alice, sdk(BOB) as bob:
        ids = stored_by(alice)
        sounds_and_pictures(alice)
        session(alice, trust)
        for call in looks_for(bob, ids):
            with pytest.raises(APIStatusError) as refused:
                call()
            assert refused.value.status_code in {400, 404}
            assert refused.value.response.headers["x-quotapool-source"] == "proxy"  # nothing went up for it
        for listing in (bob.files, bob.batches, bob.vector_stores, bob.containers, bob.chat.completions):
            assert list(listing.list()) == []


def stored_by(client: OpenAI) -> dict[str, str]:
    """The ids of all that is stored; each was found again by its id."""
    file = client.files.create(file=("in.jsonl", LINES), purpose="batch").id
    assert client.files.content(file).read() == LINES
    batch = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id
    deadline = time.monotonic() + 10
    while (done := client.batches.retrieve(batch)).status != "completed":
        assert time.monotonic() < deadline, done
        time.sleep(0.1)
    output = done.output_file_id
    assert output is not None
    assert json.loads(client.files.content(output).read())["custom_id"] == "one"

    store = client.vector_stores.create(name="docs").id
    client.vector_stores.files.create(store, file_id=file)
    assert [found.id for found in client.vector_stores.files.list(store)] == [file]

    first = client.responses.create(model=MODEL, input="hello")
    with client.responses.stream(model=MODEL, input="go on", previous_response_id=first.id) as stream:
        second = stream.get_final_response()
    third = client.responses.create(model=MODEL, input="and on", previous_response_id=second.id).id
    assert client.responses.retrieve(third).id == third

    conversation = client.conversations.create(items=[{"type": "message", "role": "user", "content": "hi"}]).id
    client.responses.create(model=MODEL, input="and?", conversation=conversation)
    assert len(list(client.conversations.items.list(conversation))) == 2

    container = client.containers.create(name="box").id
    inside = client.containers.files.create(container, file=("a.txt", b"inside")).id
    assert client.containers.files.content.retrieve(inside, container_id=container).read() == b"inside"
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], store=True).id
    assert client.chat.completions.retrieve(chat).id == chat
    made = {"file": file, "output": output, "batch": batch, "store": store, "response": third}
    return made | {"conversation": conversation, "container": container, "chat": chat}


def sounds_and_pictures(client: OpenAI) -> None:
    spoken = sound()
    heard = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", spoken))
    assert heard.text == transcript(spoken)
    deltas = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", spoken), stream=True)
    assert [event.text for event in deltas if event.type == "transcript.text.done"] == [transcript(spoken)]
    speech = client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="one two", response_format="wav")
    with wave.open(io.BytesIO(speech.read())) as played:
        assert played.getnframes() == 4_800  # two words of a tenth of a second, 24,000 samples a second
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="one two three"
    ) as streamed:
        assert sum(map(len, streamed.iter_bytes())) == 2 * 7_200
    edited = client.images.edit(model="gpt-image-1", image=[("a.png", b"first"), ("b.png", PICTURE)], prompt="a hat")
    assert edited.data is not None
    assert base64.b64decode(edited.data[0].b64_json or "") == PICTURE
    made = client.images.generate(model="gpt-image-1", prompt="a dot", stream=True)
    assert [event.type for event in made] == ["image_generation.completed"]


def session(client: OpenAI, trust: ssl.SSLContext) -> None:
    with client.realtime.connect(model="gpt-realtime", websocket_connection_options={"ssl": trust}) as connection:
        assert connection.recv().type == "session.created"
        connection.input_audio_buffer.append(audio=base64.b64encode(sound()).decode())
        connection.input_audio_buffer.commit()
        connection.response.create()
        for event in connection:
            if event.type == "response.done":
                assert event.response.status == "completed"
                assert event.response.usage is not None
                return


def looks_for(client: OpenAI, ids: dict[str, str]) -> list[Callable[[], Any]]:
    """What a client may try with the ids of another."""
    create = client.responses.create
    part: Any = {"role": "user", "content": [{"type": "input_file", "file_id": ids["file"]}]}
    return [
        lambda: client.files.content(ids["file"]),
        lambda: client.files.content(ids["output"]),
        lambda: client.files.delete(ids["file"]),
        lambda: client.batches.retrieve(ids["batch"]),
        lambda: client.batches.create(input_file_id=ids["file"], endpoint="/v1/responses", completion_window="24h"),
        lambda: client.vector_stores.files.list(ids["store"]),
        lambda: client.vector_stores.search(ids["store"], query="x"),
        lambda: client.responses.retrieve(ids["response"]),
        lambda: client.responses.input_items.list(ids["response"]),
        lambda: create(model=MODEL, input="x", previous_response_id=ids["response"]),
        lambda: create(model=MODEL, input=[part]),
        lambda: create(model=MODEL, input="x", conversation=ids["conversation"]),
        lambda: client.conversations.items.list(ids["conversation"]),
        lambda: client.containers.files.list(ids["container"]),
        lambda: client.chat.completions.retrieve(ids["chat"]),
    ]


NODE_STORY = """
import OpenAI, { toFile } from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { readFileSync } from "node:fs";
const [baseURL, model, aliceKey, bobKey] = process.argv.slice(2);
const sdk = (apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const alice = sdk(aliceKey), bob = sdk(bobKey);
const all = async (pages) => { const rows = []; for await (const row of pages) rows.push(row.id); return rows; };
const told = {};

const lines = readFileSync("in.jsonl"), spoken = readFileSync("a.wav"), picture = readFileSync("p.png");
const file = (await alice.files.create({ file: await toFile(lines, "in.jsonl"), purpose: "batch" })).id;
told.content = await (await alice.files.content(file)).text();
const endpoint = "/v1/chat/completions", completion_window = "24h";
let batch = await alice.batches.create({ input_file_id: file, endpoint, completion_window });
for (let n = 0; n < 100 && batch.status !== "completed"; n++) {
  await new Promise((done) => setTimeout(done, 100));
  batch = await alice.batches.retrieve(batch.id);
}
told.batch = JSON.parse(await (await alice.files.content(batch.output_file_id)).text()).custom_id;

const store = (await alice.vectorStores.create({ file_ids: [file] })).id;
told.inStore = (await all(alice.vectorStores.files.list(store))).length;
let response = (await alice.responses.create({ model, input: "hello" })).id;
const stream = await alice.responses.create({ model, input: "on", stream: true, previous_response_id: response });
for await (const event of stream) if (event.type === "response.completed") response = event.response.id;
told.chain = (await alice.responses.retrieve(response)).id === response;
const conversation = (await alice.conversations.create({})).id;
await alice.responses.create({ model, input: "and?", conversation });
told.said = (await all(alice.conversations.items.list(conversation))).length;
const container = (await alice.containers.create({ name: "box" })).id;
const inside = await alice.containers.files.create(container, { file: await toFile(Buffer.from("inside"), "a.txt") });
told.inside = await (await alice.containers.files.content.retrieve(inside.id, { container_id: container })).text();

const wav = () => toFile(spoken, "a.wav");
told.heard = (await alice.audio.transcriptions.create({ model: "gpt-4o-transcribe", file: await wav() })).text;
const speech = await alice.audio.speech.create({ model: "gpt-4o-mini-tts", voice: "alloy", input: "one two three" });
told.speech = (await speech.arrayBuffer()).byteLength;
const image = await toFile(picture, "p.png", { type: "image/png" });
const edited = await alice.images.edit({ model: "gpt-image-1", image, prompt: "a hat" });
told.edited = Buffer.from(edited.data[0].b64_json, "base64").equals(picture);

told.session = await new Promise((done, failed) => {
  const rt = new OpenAIRealtimeWS({ model: "gpt-realtime" }, alice);
  rt.socket.on("open", () => {
    rt.send({ type: "input_audio_buffer.append", audio: spoken.toString("base64") });
    rt.send({ type: "input_audio_buffer.commit" });
    rt.send({ type: "response.create" });
  });
  rt.on("error", failed);
  rt.on("response.done", (event) => { rt.close(); done([rt.url.protocol, event.response.status]); });
});

const part = { role: "user", content: [{ type: "input_file", file_id: file }] };
const tries = [
  () => bob.files.content(file),
  () => bob.files.content(batch.output_file_id),
  () => bob.files.delete(file),
  () => bob.batches.retrieve(batch.id),
  () => bob.batches.create({ input_file_id: file, endpoint, completion_window }),
  () => bob.vectorStores.files.list(store),
  () => bob.responses.retrieve(response),
  () => bob.responses.create({ model, input: "x", previous_response_id: response }),
  () => bob.responses.create({ model, input: [part] }),
  () => bob.conversations.items.list(conversation),
  () => bob.responses.create({ model, input: "x", conversation }),
  () => bob.containers.files.list(container),
];
told.refused = [];
for (const attempt of tries) {
  try { await attempt(); told.refused.push(200); } catch (error) { told.refused.push(error.status ?? String(error)); }
}
told.bobs = [bob.files, bob.batches, bob.vectorStores, bob.containers].map((listing) => all(listing.list()));
told.bobs = (await Promise.all(told.bobs)).flat();
console.log(JSON.stringify(told));
"""


def test_the_node_sdk_does_all_it_can_and_another_client_sees_none_of_it(
    pool, authority, program, client_programs, tmp_path
):
    (tmp_path / "node_modules").symlink_to(client_programs / "node_modules")
    files = {"story.mjs": NODE_STORY.encode(), "in.jsonl": LINES}
    for name, content in {**files, "a.wav": sound(), "p.png": PICTURE}.items():
        (tmp_path / name).write_bytes(content)
    told = json.loads(run([program("node"), "story.mjs", pool.base_url, MODEL, ALICE, BOB], tmp_path, authority))
    refused = told.pop("refused")
    assert told == {
        "content": LINES.decode(),
        "batch": "one",
        "inStore": 1,
        "chain": True,
        "said": 1,
        "inside": "inside",
        "heard": transcript(sound()),
        "speech": 2 * 7_200,
        "edited": True,
        "session": ["wss:", "completed"],
        "bobs": [],
    }
    assert len(refused) == 12
    assert set(refused) <= {400, 404}


def run(command: list[str], folder: Path, authority: Authority) -> str:
    env = {**os.environ, "NODE_EXTRA_CA_CERTS": str(authority.ca_file)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout
