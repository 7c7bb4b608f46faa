"""A month of our spend beside OpenAI's, by organisation; OpenAI is asked once for all who look within ten minutes."""

from __future__ import annotations

from datetime import UTC, date, datetime

from aiohttp import web
from quotapool.domain.wallet import PICO
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.openai_admin.collect import Collected
from quotapool.openai_admin.reconcile import KeyDay, Reconciliation
from quotapool.operators.reconciliation import NO_ADMIN_KEY, MonthlyReconciliation, by_organization
from quotapool.settings import Settings
from quotapool.shapes.work import ReconcileRow

from tests.fakes.connect import connect

ADMIN = "sk-admin-abcdefghijklmnop"


def settings_with(*organizations: str, **more) -> Settings:
    accounts = {"a": {"organization": "acme"}, "b": {"organization": "beta"}, "c": {"organization": "gamma"}}
    keys = [{"id": name, "account": name, "secret": f"sk-proj-{name}-abcdefghijklmnop"} for name in accounts]
    admin_keys = [{"organization": name, "secret": ADMIN} for name in organizations]
    return Settings.model_validate({"keys": keys, "accounts": accounts, "admin_keys": admin_keys, **more})


def test_sums_are_by_organisation_and_what_is_not_reported_is_said():
    day = date(2026, 11, 3)
    rows = [
        KeyDay(day, "a", "a", ours=3 * PICO, theirs=2 * PICO),
        KeyDay(day, "a", "", ours=0, theirs=PICO // 2),
        KeyDay(day, "b", "b", ours=PICO),
        KeyDay(day, "c", "c", ours=4 * PICO),
    ]
    answers = Collected(problems=["admin key of beta: it is refused", "session_key of a: expired"])
    found = by_organization(settings_with("acme", "beta"), Reconciliation(rows, 0, 0, 0, []), answers)
    assert found == [
        ReconcileRow("acme", 3.0, 2.5, 0.5, ""),
        ReconcileRow("beta", 1.0, None, None, "admin key of beta: it is refused"),
        ReconcileRow("other accounts", 4.0, None, None, "no admin key is for them"),
    ]


async def test_without_an_admin_key_there_is_nothing_to_compare(valkey_url):
    store = connect(valkey_url)
    found = await MonthlyReconciliation(settings_with, store).now()
    assert (found.month, found.rows, found.problem) == (f"{datetime.now(UTC):%Y-%m}", [], NO_ADMIN_KEY)
    await store.close()


async def test_openai_is_asked_once_and_a_failure_is_told(valkey_url, aiohttp_server):

    asked: list[str] = []

    async def refuse(request):
        asked.append(request.path)
        return web.json_response({"error": {"message": "no", "code": "invalid_api_key"}}, status=401)

    app = web.Application()
    app.router.add_get("/{path:.*}", refuse)
    server = await aiohttp_server(app)
    settings = settings_with("acme", admin_upstream=str(server.make_url("")))
    store = connect(valkey_url)
    await SpendStore(store, settings.pool).add([Entry("a", "a", "gpt-4o", "x", "exact", 2 * PICO)])
    monthly = MonthlyReconciliation(lambda: settings, store)
    first = await monthly.now()
    assert "admin key of acme" in first.problem
    assert [(row.name, row.ours_usd, row.theirs_usd) for row in first.rows] == [("acme", 2.0, None)]
    calls = len(asked)
    assert calls > 0
    assert await monthly.now() == first
    assert len(asked) == calls
    await monthly.close()
    await store.close()
