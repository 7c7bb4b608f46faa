"""The client of OpenAI's admin API: shapes, pages, retries, and clear texts for refusals."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import aiohttp
import pytest
from quotapool.openai_admin.client import KeyCost, KeyUsage, Organisation, admin_key_refused
from quotapool.openai_admin.json_reader import JsonReader, NoAnswer

from tests.fakes.admin_api import ScriptedApi, refusal

SECRET = "sk-admin-0123456789abcdefghij"
DAY = date(2026, 11, 20)
DAY_AT = 1_795_132_800  # its first second, UTC


@pytest.fixture
async def asking(aiohttp_server):
    """asking(answers...) -> (the API with its requests, the organisation, the waits)."""
    sessions = []

    async def start(*answers, page=100):
        api = ScriptedApi(*answers)
        server = await aiohttp_server(api.app())
        http = aiohttp.ClientSession()
        sessions.append(http)
        waits: list[float] = []

        async def sleep(seconds):
            waits.append(seconds)

        reader = JsonReader(http, str(server.make_url("")).rstrip("/"), SECRET, admin_key_refused, sleep)
        return api, Organisation(reader, page=page), waits

    yield start
    for http in sessions:
        await http.close()


def bucket(at, *results):
    return {"object": "bucket", "start_time": at, "end_time": at + 86_400, "results": list(results)}


async def test_rate_limits_are_read_with_fields_that_are_missing_and_fields_that_are_new(asking):
    row = {"object": "project.rate_limit", "id": "rl-1", "model": "gpt-image-1", "max_requests_per_1_minute": 20,
           "max_tokens_per_1_minute": 0, "max_images_per_1_minute": 5, "max_moods_per_1_minute": 7}  # fmt: skip
    _, organisation, _ = await asking((200, {"object": "list", "data": [row], "first_id": "rl-1", "has_more": False}))
    (limit,) = await organisation.rate_limits("proj_a")
    assert (limit.model, limit.max_requests_per_1_minute, limit.max_images_per_1_minute) == ("gpt-image-1", 20, 5)
    assert limit.max_requests_per_1_day is None


async def test_objects_are_read_over_all_pages(asking):
    def page(more, *names):
        data = [{"id": name, "object": "organization.project", "status": "active"} for name in names]
        return 200, {"object": "list", "data": data, "last_id": names[-1], "has_more": more}

    api, organisation, _ = await asking(page(True, "proj_1", "proj_2"), page(True, "proj_3"), page(False, "proj_4"))
    assert [project.id for project in await organisation.projects()] == ["proj_1", "proj_2", "proj_3", "proj_4"]
    assert [dict(query).get("after") for _, query in api.requests] == [None, "proj_2", "proj_3"]
    assert set(api.authorizations) == {f"Bearer {SECRET}"}


async def test_a_list_that_never_ends_is_given_up(asking):
    same = {"object": "list", "data": [{"id": "proj_1"}], "last_id": "proj_1", "has_more": True}
    api, organisation, _ = await asking((200, same))
    await organisation.projects()
    assert len(api.requests) == 2  # the second page was the first one again

    days = [(200, {"data": [], "has_more": True, "next_page": f"page_{n}"}) for n in range(300)]
    api, organisation, _ = await asking(*days)
    with pytest.raises(NoAnswer, match="more than 200 pages"):
        await organisation.costs(DAY, DAY)
    assert len(api.requests) == 200


async def test_costs_are_decimals_by_day_project_and_key_over_all_pages(asking):
    first = {
        "object": "organization.costs.result",
        "amount": {"value": 0.0000123, "currency": "usd"},
        "line_item": None,
        "project_id": "proj_a",
        "api_key_id": "key_1",
    }
    text = {
        "object": "organization.costs.result",
        "amount": {"value": "1.10", "currency": "usd"},
        "project_id": "proj_a",
    }
    api, organisation, _ = await asking(
        (200, {"object": "page", "data": [bucket(DAY_AT, first)], "has_more": True, "next_page": "page_AAA"}),
        (200, {"object": "page", "data": [bucket(DAY_AT + 86_400, text)], "has_more": False, "next_page": None}),
    )
    assert await organisation.costs(DAY, date(2026, 11, 21)) == [
        KeyCost(DAY, "proj_a", "key_1", Decimal("0.0000123")),
        KeyCost(date(2026, 11, 21), "proj_a", None, Decimal("1.10")),
    ]
    (path, query), (_, second) = api.requests
    assert path == "/v1/organization/costs"
    assert ("start_time", str(DAY_AT)) in query
    assert ("end_time", str(DAY_AT + 2 * 86_400)) in query  # exclusive
    assert [value for name, value in query if name == "group_by[]"] == ["project_id", "api_key_id"]
    assert ("page", "page_AAA") in second


async def test_usage_counts_requests_and_tokens_of_each_key_embeddings_too(asking):
    result = {"object": "organization.usage.completions.result", "input_tokens": 1000, "output_tokens": 50,
              "input_cached_tokens": 800, "num_model_requests": 5, "project_id": "p", "api_key_id": "k"}  # fmt: skip
    embedded = {"object": "organization.usage.embeddings.result", "input_tokens": 70, "num_model_requests": 7,
                "project_id": "p", "api_key_id": "k"}  # fmt: skip
    api, organisation, _ = await asking(
        (200, {"object": "page", "data": [bucket(DAY_AT, result)], "has_more": False}),
        (200, {"object": "page", "data": [bucket(DAY_AT, embedded)], "has_more": False}),
    )
    assert await organisation.usage(DAY, DAY) == [
        KeyUsage(DAY, "p", "k", 5, 1000, 50),
        KeyUsage(DAY, "p", "k", 7, 70, 0),
    ]
    assert [path for path, _ in api.requests] == [
        f"/v1/organization/usage/{kind}" for kind in ("completions", "embeddings")
    ]


async def test_a_spend_limit_is_in_cents_and_may_not_exist(asking):
    limit = {"object": "project.spend_limit", "threshold_amount": 12_345, "currency": "USD", "interval": "month",
             "enforcement": {"status": "enforcing"}}  # fmt: skip
    _, organisation, _ = await asking((200, limit), (404, refusal("No spend limit.")))
    found = await organisation.spend_limit("proj_a")
    assert (found.usd, found.enforcing) == (123.45, True)
    assert await organisation.spend_limit() is None


async def test_a_busy_api_is_tried_again_after_the_wait_it_names(asking):
    empty = {"object": "list", "data": [], "has_more": False}
    api, organisation, waits = await asking(
        (429, refusal("slow down"), {"Retry-After": "7"}), (503, "<html>"), (200, empty)
    )
    assert await organisation.projects() == []
    assert len(api.requests) == 3
    assert waits[0] == 7
    assert 0.5 < waits[1] < 1.5  # the second step of the back-off: 1 s, a quarter more or less


async def test_an_api_that_stays_busy_is_given_up_after_four_attempts(asking):
    api, organisation, waits = await asking((500, refusal("The server had an error"), {"Retry-After": "9999"}))
    with pytest.raises(NoAnswer, match="answers 500: The server had an error") as caught:
        await organisation.projects()
    assert not caught.value.final
    assert len(api.requests) == 4
    assert waits == [30, 30, 30]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_of_the_wrong_kind_is_explained_and_not_tried_again(asking, status):
    message = (
        "You have insufficient permissions for this operation. Missing scopes: api.usage.read. Check that you have the "
        "correct role in your organization."
    )
    api, organisation, _ = await asking((status, refusal(message, "missing_scope")))
    with pytest.raises(NoAnswer) as caught:
        await organisation.costs(DAY, DAY)
    assert caught.value.final
    assert "lacks the permission api.usage.read" in str(caught.value)
    assert "sk-admin-" in str(caught.value)
    assert len(api.requests) == 1


async def test_a_revoked_admin_key_is_reported_without_its_text(asking):
    _, organisation, _ = await asking((401, refusal(f"Incorrect API key provided: {SECRET[:8]}*****{SECRET[-4:]}.")))
    with pytest.raises(NoAnswer, match="make a new one") as caught:
        await organisation.projects()
    assert SECRET[-4:] not in str(caught.value)


async def test_a_redirect_does_not_get_the_secret(asking):
    elsewhere, _, _ = await asking((200, {"data": []}))
    api, organisation, _ = await asking((302, "", {"Location": "/elsewhere"}))
    with pytest.raises(NoAnswer):
        await organisation.projects()
    assert len(api.requests) == 1
    assert elsewhere.requests == []


async def test_an_api_that_cannot_be_reached_is_reported(asking):
    _, _, _ = await asking((200, {}))
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async with aiohttp.ClientSession() as http:
        reader = JsonReader(http, "http://127.0.0.1:9", SECRET, admin_key_refused, sleep)
        with pytest.raises(NoAnswer, match="cannot be reached") as caught:
            await Organisation(reader).projects()
    assert not caught.value.final
    assert len(waits) == 3


@pytest.mark.parametrize("answer", ["<html>", '{"data": 5}', "[]"])
async def test_an_answer_of_another_shape_is_reported(asking, answer):
    _, organisation, _ = await asking((200, answer))
    with pytest.raises(NoAnswer, match="unknown shape"):
        await organisation.projects()
