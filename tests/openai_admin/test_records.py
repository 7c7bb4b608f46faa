"""The supervisor's hourly round: what OpenAI reports is stored for all, and imported limits are passed on."""

from __future__ import annotations

import pytest
import structlog
from quotapool.app.openai_sync import OpenAISync
from quotapool.openai_admin.collect import Collector
from quotapool.openai_admin.records import OpenAIRecords
from quotapool.settings import Settings

from tests.fakes.admin_api import refusal
from tests.fakes.connect import connect

KEY = {"id": "alpha", "secret": "sk-proj-alpha000000", "account": "acme"}
ADMIN = [{"organization": "acme", "secret": "sk-admin-canary000000"}]


class Api:
    """An admin API of one project, whose limit the test sets; `down`: it refuses everything."""

    def __init__(self) -> None:
        self.rpm = 500
        self.down = False
        self.requests = 0

    def answer(self, path):
        self.requests += 1
        if self.down:
            return 403, refusal("Missing scopes: api.management.read.")
        if path.endswith("rate_limits"):
            row = {"id": "rl-1", "model": "gpt-4o", "max_requests_per_1_minute": self.rpm}
            return 200, {"object": "list", "data": [row], "has_more": False}
        if path.endswith("api_keys"):
            key = {"id": "key_1", "redacted_value": "sk-proj-al...0000", "name": "backend", "expires_at": 1_900_000_000}
            return 200, {"object": "list", "data": [key], "has_more": False}
        return 404, refusal("No spend limit.")


@pytest.fixture
async def round_of(valkey_url, aiohttp_server):
    """round_of(settings...) -> (api, one round, the sync, how often limits changed, the records)."""
    import aiohttp
    from aiohttp import web

    api = Api()

    async def handle(request):
        status, document = api.answer(request.path)
        return web.json_response(document, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = await aiohttp_server(app)
    store = connect(valkey_url)
    async with aiohttp.ClientSession() as http:

        def begin(**options):
            options = {"accounts": {"acme": {"project": "proj_a"}}, "admin_keys": ADMIN, **options}
            settings = Settings.model_validate({"upstream": str(server.make_url("")), "keys": [KEY], **options})
            moved: list[int] = []
            sync = OpenAISync(store, lambda: settings, lambda: moved.append(1))
            collector = Collector(http)
            return api, sync, collector, settings, moved, OpenAIRecords(store, settings.pool)

        yield begin
    await store.close()


async def test_limits_apply_once_they_are_read_and_follow_each_change(round_of):
    api, sync, collector, settings, moved, _ = round_of(import_limits=True)
    assert sync.with_imported_limits(settings).limits_for("acme", "gpt-4o").rpm is None
    assert await sync.ask(collector)
    assert sync.with_imported_limits(settings).limits_for("acme", "gpt-4o").rpm == 500
    await sync.ask(collector)
    assert moved == [1]  # nothing new
    api.rpm = 50
    await sync.ask(collector)
    assert moved == [1, 1]
    assert sync.with_imported_limits(settings).limits_for("acme", "gpt-4o").rpm == 50
    # If the API goes away, the last limits stay.
    api.down = True
    assert not await sync.ask(collector)
    assert sync.with_imported_limits(settings).limits_for("acme", "gpt-4o").rpm == 50


async def test_limits_are_not_imported_unless_that_is_wanted(round_of):
    _, sync, collector, settings, moved, records = round_of()
    await sync.ask(collector)
    assert moved == []
    assert sync.with_imported_limits(settings) is settings
    assert sync.key_ends == {"alpha": 1_900_000_000}
    keys, _ = await records.read()
    assert (keys["alpha"].name, keys["alpha"].expires_at) == ("backend", 1_900_000_000)


async def test_an_account_that_no_longer_names_its_project_loses_its_imported_limits(round_of):
    _, sync, collector, settings, _, _ = round_of(import_limits=True)
    await sync.ask(collector)
    without = settings.model_copy(update={"accounts": {}})
    assert sync.with_imported_limits(without).limits_for("acme", "gpt-4o").rpm is None


async def test_a_refusal_is_logged_once(round_of):
    api, sync, collector, _, _, _ = round_of()
    api.down = True
    with structlog.testing.capture_logs() as logs:
        assert not await sync.ask(collector)
        requests = api.requests
        assert await sync.ask(collector)
    assert api.requests == requests
    problems = [line["problem"] for line in logs]
    assert len(problems) == requests
    assert all("lacks the permission api.management.read" in problem for problem in problems)
    assert not any("canary" in problem for problem in problems)


async def test_without_admin_keys_and_logins_nothing_is_read(round_of):
    api, sync, collector, _, _, _ = round_of(admin_keys=[])
    assert await sync.ask(collector)
    assert api.requests == 0
