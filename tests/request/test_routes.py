"""Keys with an upstream of their own: Azure's path, query, header and model names, beside OpenAI's keys."""

from __future__ import annotations

import json

import pytest
from quotapool.keys.keyring import credentials_of
from quotapool.settings import Settings
from quotapool.upstream.routes import Route

from tests.fakes.edge import Client, FakeUpstream, chat_answer, chat_body, error
from tests.fakes.house import open_house

AZURE = "https://acme.openai.azure.com/openai"
OWN = {
    "url": f"{AZURE}/v1/",
    "header": "api-key",
    "query": {"api-version": "2026-01-01 preview"},
    "models": {"gpt-4o": "acme-4o", "whisper-1": "whisper-1"},
}


def key(name: str, **more) -> dict:
    return {"id": name, "account": name, "secret": f"sk-test-{name}-{'x' * 32}", **more}


class AzureUpstream(FakeUpstream):
    """Knows its keys by the api-key header."""

    async def send(self, method, target, headers, body):
        given = dict(headers)
        assert b"Authorization" not in given
        renamed = [(name, value) for name, value in headers if name != b"api-key"]
        return await super().send(method, target, [*renamed, (b"Authorization", b"Bearer " + given[b"api-key"])], body)


@pytest.fixture
async def house(valkey_url):
    """Account `open` is OpenAI's, `azure` has an upstream of its own with models of its own."""
    settings = {"keys": [key("open"), key("azure", upstream=OWN)]}
    async with open_house(valkey_url, {}, **settings) as opened:
        opened.azure = AzureUpstream(opened.secrets)
        opened.configure(others={AZURE: opened.azure})
        yield opened


async def ask(house, times: int = 1, **client) -> Client:
    for _ in range(times):
        answered = await house.ask(Client(**client))
    return answered


async def test_both_serve_a_model_that_both_have(house):
    client = await ask(house, 20, body=chat_body("gpt-4o"))
    assert client.status == 200
    assert len(house.upstream.sent) > 2
    assert len(house.azure.sent) > 2
    assert len(house.upstream.sent) + len(house.azure.sent) == 20


async def test_azure_is_asked_in_its_own_words(house):
    house.upstream.always["open"] = error(429, "rate_limit_exceeded", "Please try again in 60s.", "requests")
    body = chat_body("gpt-4o", user="é", stream_options=None)
    await ask(house, 8, body=body, target="/v1/chat/completions?a=1&b[]=2")
    sent = house.azure.sent[0]
    assert sent.target == "/v1/chat/completions?a=1&b[]=2&api-version=2026-01-01%20preview"
    assert sent.key == "azure"
    assert sent.body == body.replace(b'"gpt-4o"', b'"acme-4o"')
    assert {s.body for s in house.upstream.sent} <= {body}


async def test_the_clients_own_query_wins(house):
    route = Route(AZURE, query={"api-version": "preview", "x": "y&z"})
    assert route.target("/v1/models?api-version=v1") == "/v1/models?api-version=v1&x=y%26z"
    assert route.target("/v1/models") == "/v1/models?api-version=preview&x=y%26z"
    assert Route(AZURE).target("/v1/models?") == "/v1/models?"


async def test_a_model_that_is_not_in_its_map_never_goes_there(house):
    await ask(house, 20, body=chat_body("o3"))
    assert len(house.upstream.sent) == 20
    assert house.azure.sent == []


async def test_without_anybody_who_has_the_model_it_is_not_available(valkey_url):
    async with open_house(valkey_url, {}, keys=[key("azure", upstream=OWN)]) as house:
        client = await house.ask(Client(chat_body("o3")))
        assert (client.status, client.error["code"]) == (404, "model_not_available")


def form(*parts: tuple[str, str]) -> bytes:
    return b"".join(
        f"--b\r\nContent-Disposition: form-data; {what}\r\n\r\n{value}\r\n".encode() for what, value in parts
    ) + b"--b--\r\n"  # fmt: skip


FORM = [("Content-Type", "multipart/form-data; boundary=b")]


async def test_a_form_goes_there_where_its_model_needs_no_other_name(house):
    body = form(('name="model"', "whisper-1"), ('name="file"; filename="a"', "x" * 100))
    await ask(house, 12, body=body, target="/v1/audio/transcriptions", more_headers=FORM)
    assert {sent.body for sent in (*house.upstream.sent, *house.azure.sent)} == {body}
    assert house.azure.sent
    # A form is streamed, so a model in it cannot be renamed, and one that was not found may be any.
    house.azure.sent.clear()
    for name in ("gpt-4o", "gpt-4o-transcribe"):
        body = form(('name="model"', name), ('name="file"; filename="a"', "x" * 100))
        await ask(house, 8, body=body, target="/v1/audio/transcriptions", more_headers=FORM)
    late = form(('name="file"; filename="a"', "x" * 70_000), ('name="model"', "whisper-1"))
    await ask(house, 8, body=[late[:69_000], late[69_000:]], target="/v1/audio/transcriptions", more_headers=FORM)
    assert house.azure.sent == []


async def test_an_upload_that_names_no_model_may_go_to_an_upstream_with_models_of_its_own(house):
    body = form(('name="purpose"', "batch"), ('name="file"; filename="a"', "x" * 100))
    await ask(house, 20, body=body, target="/v1/files", more_headers=FORM)
    assert len(house.azure.sent) == 20  # the home of those who have no client key


async def test_what_upstream_calls_the_model_is_left_as_it_is_in_the_answer(house):
    house.azure.otherwise = chat_answer().named()
    house.upstream.always["open"] = error(429, "rate_limit_exceeded", "Please try again in 60s.", "requests")
    answer = json.dumps({"model": "acme-4o", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
    house.azure.otherwise = type(house.azure.otherwise)(pieces=[answer])
    client = await ask(house, 3, body=chat_body("gpt-4o"))
    assert client.got == answer


def test_an_upstream_may_be_just_a_url():
    settings = Settings.model_validate({"keys": [key("a", upstream="http://127.0.0.1:9/v1")]})
    credentials = credentials_of(settings)
    route = credentials.route("a")
    assert route is not None
    assert (route.base, route.header) == ("http://127.0.0.1:9", "bearer")
    assert credentials.header("a") == (b"Authorization", b"Bearer sk-test-a-" + b"x" * 32)
    assert credentials.closed_to("any", renamable=True) == frozenset()
    assert credentials.bases == {"http://127.0.0.1:9"}


def test_a_pool_of_one_upstream_has_no_routes_to_look_at():
    credentials = credentials_of(Settings.model_validate({"keys": [key("a"), key("b")]}))
    assert credentials.route("a") is None
    assert credentials.bases == frozenset()


def test_secrets_stay_out_of_what_is_shown():
    credentials = credentials_of(Settings.model_validate({"keys": [key("a", upstream=OWN)]}))
    assert "sk-test" not in repr(credentials) + repr(credentials.route("a"))
