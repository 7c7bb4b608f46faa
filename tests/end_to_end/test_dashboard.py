"""The operators' page in a real browser, on a real pool at work: every screen and every verb.

A page fails its test on any error in its console, which includes whatever its own security policy blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from quotapool.domain.outside import OutsideUse
from quotapool.observe.outside_store import OutsideStore
from quotapool.simulator import simulated_secret
from quotapool.store.embedded import attach_url

from tests.fakes.browser import chromium, opened, violations
from tests.fakes.connect import connect
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.scenarios.busy_pool import CLIENTS, Traffic, busy_pool, key_of, trouble

SCREENS = ("now", "requests", "usage", "keys", "clients", "money", "advice", "events", "configuration")
TITLES = {"keys": "Keys", "requests": "Requests", "usage": "Usage", "clients": "Clients", "money": "Money"}
VIEWER = {"X-Viewer": "vera"}
EXPIRED = "Failed to load resource: the server responded with a status of 401"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningProxy, Simulator]]:
    """Five keys, of which two are in trouble, and what five clients have done within some seconds."""
    header = {"name": "X-Viewer", "from": ["127.0.0.0/8"], "viewers": ["vera"]}
    with busy_pool(tmp_path_factory.mktemp("pool"), 5, dashboard={"trusted_header": header}) as (proxy, simulator):
        trouble(simulator)
        with ThreadPoolExecutor(1) as beside:  # this thread may have Playwright's event loop
            beside.submit(asyncio.run, Traffic(proxy, per_second=25).run(6)).result()
        yield proxy, simulator


@pytest.fixture(scope="module")
def browser(program) -> Iterator[Browser]:
    with chromium(program("chromium")) as started:
        yield started


def one_time_link(proxy: RunningProxy) -> str:
    done = proxy.command("dashboard", "--no-open")
    assert done.returncode == 0, done.stderr
    return next(word for word in done.stdout.split() if word.startswith("http"))


@pytest.fixture
def page(browser, pool) -> Iterator[Page]:
    """Logged in by a one-time link, as an operator."""
    proxy, _ = pool
    with opened(browser, one_time_link(proxy), locale="en-GB") as page:
        expect(page.get_by_role("navigation")).to_be_visible()
        yield page


@contextlib.contextmanager
def name_outside_use(proxy: RunningProxy) -> Iterator[None]:
    """Of every account, as the replica does that judges."""
    accounts = sorted({row["account"] for row in json.loads(proxy.command("keys", "list", "--json").stdout)["keys"]})
    url = attach_url(proxy.state_dir)
    assert url is not None

    over = threading.Event()

    async def put() -> None:
        """Again and again, since that replica finds none, and says so."""
        store = connect(url)
        outside = OutsideStore(store, "default")
        while not over.is_set():
            await outside.put([OutsideUse(account, "gpt-4o", time.time(), 40.0, 12_000.0) for account in accounts])
            await asyncio.sleep(0.1)
        await outside.put([])
        await store.close()

    with ThreadPoolExecutor(1) as beside:
        putting = beside.submit(asyncio.run, put())
        try:
            yield
        finally:
            over.set()
            putting.result()


def show(page: Page, screen: str, filters: str = "") -> None:
    page.evaluate("place => { location.hash = place; }", f"#/{screen}{filters}")
    expect(page.locator("h1")).to_be_visible()


def drawer(page: Page) -> Locator:
    return page.get_by_role("dialog")


def click_through(page: Page, screen: str) -> None:
    """One click, from wherever one is."""
    page.get_by_role("navigation").get_by_role("link", name=screen).click()


# ---- logging in


def test_the_token_lets_in_and_is_nowhere_in_the_browser_afterwards(browser, pool):
    proxy, _ = pool
    token = (proxy.state_dir / "admin-token").read_text().strip()
    with opened(browser, f"{proxy.admin_url}/", but=(EXPIRED,)) as page:
        page.get_by_label("Admin token").fill("not-the-token")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("token")
        page.get_by_label("Admin token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("navigation")).to_be_visible()
        assert token not in page.url
        assert token not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert cookie["value"] != token
        page.reload()
        expect(page.get_by_role("navigation")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Admin token")).to_be_visible()
        assert page.request.get(f"{proxy.admin_url}/admin/keys").status == 401


def test_a_one_time_link_works_once(browser, pool):
    proxy, _ = pool
    link = one_time_link(proxy)
    with opened(browser, link) as page:
        expect(page.get_by_role("navigation")).to_be_visible()
        assert "code" not in page.url
    with opened(browser, link, but=(EXPIRED,)) as page:  # of the code, not of a look at who is signed in
        expect(page.get_by_label("Admin token")).to_be_visible()
    with opened(browser, f"{proxy.admin_url}/") as page:  # nothing in the console
        expect(page.get_by_label("Admin token")).to_be_visible()


def test_a_viewer_sees_everything_and_changes_nothing(browser, pool):
    proxy, _ = pool
    with opened(browser, f"{proxy.admin_url}/", extra_http_headers=VIEWER) as page:
        expect(page.get_by_text("vera · viewer")).to_be_visible()
        for screen in SCREENS:
            show(page, screen)
        show(page, "keys")
        expect(page.get_by_role("row").nth(1)).to_be_visible()
        expect(page.get_by_role("button", name="Add keys")).to_have_count(0)
        page.get_by_role("row", name=re.compile("key-0")).click()
        expect(drawer(page).get_by_text("Budget").first).to_be_visible()
        expect(drawer(page).get_by_role("button", name="Disable")).to_have_count(0)
        headers = {"X-Quotapool-CSRF": page.request.get(f"{proxy.admin_url}/admin/session").json()["csrf"]}
        refused = page.request.post(f"{proxy.admin_url}/admin/keys/key-0/disable", headers=headers)
        assert (refused.status, refused.json()["error"]["code"]) == (403, "role_not_enough")
        tried = {"body": {"model": "gpt-4o", "messages": []}}  # which changes nothing
        assert page.request.post(f"{proxy.admin_url}/admin/dry-run", headers=headers, data=tried).status == 200


# ---- for everybody


@pytest.mark.parametrize(
    ("locale", "scheme", "width"),
    [("en-GB", "light", 1280), ("zh-CN", "dark", 360), ("en-GB", "dark", 360), ("zh-CN", "light", 1280)],
)
def test_every_screen_is_for_everybody(browser, pool, client_programs, locale, scheme, width):
    """Languages, looks, sizes; axe-core finds nothing; nothing is wider than the window."""
    proxy, _ = pool
    axe = client_programs / "node_modules" / "axe-core" / "axe.min.js"
    size = {"width": width, "height": 800}
    with opened(browser, one_time_link(proxy), locale=locale, color_scheme=scheme, viewport=size) as page:
        expect(page.get_by_role("navigation")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == ("en" if locale == "en-GB" else "zh-CN")
        for screen in SCREENS:
            show(page, screen)
            expect(page.get_by_text("Loading …" if locale == "en-GB" else "加载中……")).to_have_count(0)
            assert violations(page, axe) == [], screen
            assert page.evaluate("document.documentElement.scrollWidth") <= width, screen


def test_long_names_widen_no_screen_and_hide_no_column(browser, start_simulator, start_proxy):
    """A client chooses its model's name."""
    simulator, client = start_simulator(1), {"id": 64 * "c", "key": "a-client-key-of-some-length"}
    proxy = start_proxy(pool_config(simulator, clients=[client]))
    for model in ("gpt-4o-mini", 64 * "m"):
        body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        known = {"Authorization": f"Bearer {client['key']}"}
        assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=known)[0] in {200, 404}
    with opened(browser, one_time_link(proxy), locale="en-GB") as page:
        expect(page.get_by_role("combobox", name="Model")).to_be_visible(timeout=60_000)  # from the second sample on
        for width in (360, 768, 1600):
            page.set_viewport_size({"width": width, "height": 800})
            show(page, "usage")
            expect(page.locator(".legend")).to_contain_text(client["id"])
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
            show(page, "now")
            room = page.get_by_role("group", name="Room by model")
            expect(room).to_contain_text(64 * "m")
            expect(page.get_by_role("combobox", name="Model")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
        assert room.evaluate("one => one.scrollWidth - one.clientWidth") <= 0


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("width", [1280, 1000, 781, 780, 360])
def test_the_mark_of_an_account_that_others_use_is_read_whole(browser, pool, locale, width):
    proxy, _ = pool
    with (
        name_outside_use(proxy),
        opened(browser, one_time_link(proxy), locale=locale, viewport={"width": width, "height": 800}) as page,
    ):
        expect(page.get_by_role("navigation")).to_be_visible()
        show(page, "keys")
        marks = page.locator(".table .badge", has_text=re.compile("^(Used by others|被他人使用)$"))
        expect(marks).to_have_count(5)
        cut = """all => all.flatMap(one => [one, one.parentElement])
            .filter(one => one.scrollWidth > one.clientWidth)
            .map(one => [one.textContent, one.scrollWidth, one.clientWidth])"""
        assert marks.evaluate_all(cut) == []
        show(page, "keys/key-3")
        assert marks.evaluate_all(cut) == []


def test_drawers_are_for_everybody_too(page, client_programs):
    axe = client_programs / "node_modules" / "axe-core" / "axe.min.js"
    for place in (
        "keys/key-3",
        "clients/search",
        "money/acme",
        "keys?add=true",
        "clients?add=client",
        "clients?team=product",
    ):
        page.evaluate("place => { location.hash = place; }", f"#/{place}")
        expect(drawer(page)).to_be_visible()
        expect(page.get_by_text("Loading …")).to_have_count(0)
        assert violations(page, axe) == [], place
        page.keyboard.press("Escape")
        expect(drawer(page)).to_have_count(0)


def test_language_and_look_are_chosen_and_kept(page):
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("navigation").get_by_role("link", name="密钥")).to_be_visible()
    page.get_by_label("外观").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 20)"
    page.reload()
    expect(page.get_by_role("navigation").get_by_role("link", name="密钥")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 20)"


def test_the_keyboard_reaches_a_row_opens_it_and_comes_back(page):
    show(page, "keys")
    row = page.get_by_role("row", name=re.compile("key-0"))
    row.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("row", name=re.compile("key-1"))).to_be_focused()
    page.keyboard.press("Enter")
    expect(drawer(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer(page)).to_have_count(0)


# ---- the seven questions, in at most two clicks from the first screen


def test_who_burned_the_tokens(page):
    click_through(page, "Usage")
    page.get_by_role("button", name="Tokens").click()
    first = page.get_by_role("grid").get_by_role("row").nth(1)
    expect(first).to_contain_text("batch-tagger")  # half of all requests


def test_why_a_request_waited_or_was_refused(page, pool):
    click_through(page, "Requests")
    page.get_by_role("row", name=re.compile("ide.*429")).first.click()
    expect(drawer(page)).to_contain_text("client ide had used 8 of 8 requests")
    proxy, _ = pool
    shown = re.search(r"quotapool explain (\S+)", drawer(page).inner_text())
    assert shown is not None
    assert "client ide had used 8 of 8 requests" in proxy.command("explain", shown[1]).stdout


def test_how_much_room_a_model_has_and_what_runs_dry(page):
    table = page.get_by_role("group", name="Room by model")
    row = table.get_by_role("row", name=re.compile(r"gpt-5\.4 .*tok.min")).first
    expect(row).to_contain_text(re.compile(r"\d+%"))
    expect(page.locator("h1")).to_contain_text("Serving: 3 of 5 keys.")


def test_who_used_a_key(page, pool):
    click_through(page, "Keys")
    page.get_by_role("row", name=re.compile("key-0")).click()
    users = drawer(page).get_by_role("group", name="Used by")
    expect(users).to_contain_text("batch-tagger")
    proxy, _ = pool
    told = proxy.command("keys", "users", "key-0").stdout
    assert "batch-tagger" in told
    assert "no request" in proxy.command("keys", "users", "no-such-key").stdout


def test_the_last_errors(page):
    click_through(page, "Requests")
    page.get_by_role("button", name="Errors").click()
    rows = page.get_by_role("grid").get_by_role("row")
    expect(rows.nth(1)).to_contain_text(re.compile("4[0-9]{2}|5[0-9]{2}"))
    expect(page.locator(".rows .badge", has_text=re.compile("^200"))).to_have_count(0)


def test_what_the_pool_has_saved(page):
    click_through(page, "Usage")
    expect(page.get_by_role("region", name="What was saved")).to_contain_text(
        re.compile(r"[1-9]\d* requests were served although an attempt failed, [1-9]\d* after a wait")
    )


# ---- verbs


def test_what_is_wrong_comes_with_the_button_that_helps(page, pool):
    tasks = page.get_by_role("region", name="What to look at")
    task = tasks.get_by_role("listitem").filter(has_text="key-4")
    expect(task).to_contain_text("insufficient quota")
    task.get_by_role("button", name="Top up").click()
    drawer(page).get_by_label("US dollars").fill("25")
    drawer(page).get_by_role("button", name="Record").click()
    expect(drawer(page)).to_have_count(0)
    proxy, _ = pool
    accounts = admin(proxy, "/accounts")["accounts"]
    assert [row["grants"][-1]["usd"] for row in accounts if row["id"] == "key-4"] == [25]


def report(page: Page) -> Locator:
    """Of the work on many keys."""
    return page.get_by_role("region", name=re.compile("^(Import|Disable|Forget) 5,00. keys"))


def admin(proxy: RunningProxy, path: str) -> dict:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin{path}", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def test_a_key_is_disabled_probed_and_enabled_and_the_record_says_by_whom(page, pool):
    proxy, _ = pool
    show(page, "keys")
    page.get_by_role("row", name=re.compile("key-2")).click()
    drawer(page).get_by_role("button", name="Disable").click()
    expect(drawer(page).get_by_text("disabled", exact=True).first).to_be_visible()
    drawer(page).get_by_role("button", name="Enable").click()
    expect(drawer(page).get_by_text("active", exact=True).first).to_be_visible()
    drawer(page).get_by_role("button", name="Probe").click()
    expect(drawer(page).get_by_role("status").get_by_text("valid", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    changes = [one["data"] for one in admin(proxy, "/events?kind=operator&subject=k/key-2")["events"]]
    assert [one["action"] for one in changes] == ["probe_key", "enable_key", "disable_key"]
    assert "@" in changes[0]["actor"]  # user@host of who ran `quotapool dashboard`
    assert json.loads(changes[2]["changes"])["state"] == ["active", "disabled"]
    show(page, "events", "?kind=operator")
    expect(page.get_by_role("grid")).to_contain_text("state: active → disabled")


def test_five_thousand_keys_are_imported_disabled_and_forgotten(page, pool, tmp_path):
    proxy, _ = pool
    show(page, "keys")
    page.get_by_role("button", name="Add keys").click()
    drawer(page).get_by_role("button", name="Many keys").click()
    rows = [f"{simulated_secret(n)},bulk-{n}" for n in range(1_000, 6_000)]
    file = tmp_path / "keys.csv"
    file.write_text("\n".join(["secret,id", *rows, ",has-no-secret"]))
    drawer(page).get_by_label("Files").set_input_files(file)
    drawer(page).get_by_label("Ask OpenAI first").uncheck()
    drawer(page).get_by_role("button", name="Import").click()
    expect(page.get_by_text("5,001 of 5,001 done")).to_be_visible(timeout=60_000)
    expect(report(page).get_by_text("added 5,000")).to_be_visible()
    expect(page.get_by_role("group", name="Not done")).to_contain_text("5002")  # the line
    assert "sk-" not in page.locator("main").inner_text()
    page.get_by_label("Search").first.fill("bulk-")
    page.get_by_role("button", name="Choose all 5,000 that match").click()
    page.get_by_role("button", name="Disable", exact=True).click()
    question = page.get_by_role("dialog", name="Disable 5,000 keys?")
    question.get_by_role("button", name="Disable").click()
    expect(report(page).get_by_text("disabled 5,000")).to_be_visible(timeout=60_000)
    assert sum(key["state"] == "disabled" for key in admin(proxy, "/key-lines")["keys"]) == 5_000
    page.get_by_role("button", name="Choose all 5,000 that match").click()
    page.get_by_role("button", name="Forget", exact=True).click()
    page.get_by_role("dialog", name="Forget 5,000 keys?").get_by_role("button", name="Forget").click()
    expect(report(page).get_by_text("forgotten 5,000")).to_be_visible(timeout=60_000)
    assert len(admin(proxy, "/key-lines")["keys"]) == 5
    (done, *_) = admin(proxy, "/events?kind=operator&limit=1")["events"]
    assert (done["data"]["action"], json.loads(done["data"]["changes"])["done"]) == ("forget_keys", [None, 5_000])


def test_a_client_is_made_used_changed_rotated_suspended_and_revoked(page, pool):
    proxy, _ = pool
    show(page, "clients")
    page.get_by_role("button", name="New client").click()
    drawer(page).get_by_label("Id").fill("mobile")
    drawer(page).get_by_label("req/min").fill("120")
    drawer(page).get_by_role("button", name="Add a budget").click()
    drawer(page).get_by_label("Amount").fill("12")
    drawer(page).get_by_role("button", name="Save").click()
    shown = page.get_by_role("region", name="The key of mobile")
    key = shown.locator("code").first.inner_text()
    shown.get_by_role("button", name="Python").click()
    expect(shown.locator("pre")).to_contain_text("OpenAI(base_url=")
    wait_until(lambda: ask(proxy, key) == 200, "its key is served", 10)
    shown.get_by_role("button", name="I have kept it").click()
    expect(page.get_by_text(key)).to_have_count(0)

    page.get_by_role("row", name=re.compile("mobile")).click()
    expect(drawer(page)).to_contain_text("$12")
    drawer(page).get_by_text("Edit", exact=True).click()
    drawer(page).get_by_label("req/min").fill("240")
    drawer(page).get_by_role("button", name="Save").click()
    wait_until(lambda: admin(proxy, "/clients/mobile")["limits"]["rpm"] == 240, "the limit is changed", 20)

    drawer(page).get_by_role("button", name="Suspend").click()
    page.get_by_role("dialog", name="Suspend mobile?").get_by_label("Reason").fill("lost phone")
    page.get_by_role("dialog", name="Suspend mobile?").get_by_role("button", name="Suspend").click()
    expect(drawer(page).get_by_text("lost phone").first).to_be_visible()
    wait_until(lambda: ask(proxy, key) == 403, "it is refused", 10)
    drawer(page).get_by_role("button", name="Resume").click()
    wait_until(lambda: ask(proxy, key) == 200, "it is served again", 10)

    drawer(page).get_by_role("button", name="Rotate key").click()
    rotated = page.get_by_role("dialog", name="Rotate key mobile?")
    rotated.get_by_label(re.compile("Hours")).fill("0")
    rotated.get_by_role("button", name="Rotate key").click()
    new = page.get_by_role("region", name="The key of mobile").locator("code").first.inner_text()
    assert new != key
    wait_until(lambda: ask(proxy, new) == 200, "the new key is served", 10)
    page.get_by_role("button", name="I have kept it").click()

    page.get_by_role("row", name=re.compile("mobile")).click()
    drawer(page).get_by_role("button", name="Revoke").click()
    revoked = page.get_by_role("dialog", name="Revoke mobile?")
    expect(revoked.get_by_role("button", name="Revoke")).to_be_disabled()
    revoked.get_by_label(re.compile("Type its id")).fill("mobile")
    revoked.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name=re.compile("mobile"))).to_have_count(0)
    wait_until(lambda: ask(proxy, new) == 401, "its key is worth nothing", 10)
    told = json.dumps(admin(proxy, "/events?kind=operator&subject=c/mobile"))
    assert key not in told
    assert new not in told


def ask(proxy: RunningProxy, key: str) -> int:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5}
    return fetch(
        f"{proxy.base_url}/chat/completions", method="POST", body=body, headers={"Authorization": f"Bearer {key}"}
    )[0]


def test_requests_come_by_themselves(page, pool):
    proxy, _ = pool
    show(page, "requests", "?client=evals")
    page.get_by_label("Model").focus()  # not over the rows, which stand still then
    before = page.get_by_role("grid").get_attribute("aria-rowcount")
    assert ask(proxy, key_of("evals")) == 200
    expect(page.get_by_role("grid")).not_to_have_attribute("aria-rowcount", str(before))


def test_what_would_happen_now_is_told_without_doing_it(page, pool):
    _, simulator = pool
    show(page, "requests")
    page.get_by_role("button", name="What would happen now?").click()
    served = simulator.stats()
    drawer(page).get_by_role("button", name="Ask").click()
    expect(drawer(page).get_by_text(re.compile("served now|waits"))).to_be_visible()
    expect(drawer(page)).to_contain_text("acme")
    assert simulator.stats() == served


def test_usage_is_saved_as_csv(page):
    show(page, "usage", "?by=client")
    with page.expect_download() as waiting:
        page.get_by_role("button", name=re.compile("csv")).click()
    text = Path(waiting.value.path()).read_text()
    assert all(client in text for client in CLIENTS)


def test_each_value_of_the_configuration_has_its_source(page):
    show(page, "configuration")
    page.get_by_label("Search").fill("queue.max_wait")
    expect(page.get_by_role("row", name=re.compile(r"queue\.max_wait 4"))).to_contain_text(
        re.compile(r"quotapool\.yaml:\d+")
    )
    page.get_by_label("Search").fill("admin_token")
    expect(page.locator("main")).not_to_contain_text("sk-")


def test_sessions_are_ended_by_an_operator(browser, page, pool):
    proxy, _ = pool
    with opened(browser, one_time_link(proxy), but=(EXPIRED,)) as other:
        expect(other.get_by_role("navigation")).to_be_visible()
        show(page, "events")
        sessions = page.get_by_role("group", name="Signed in")
        expect(sessions.get_by_text("this one")).to_be_visible()
        for _ in range(sessions.get_by_role("button", name="Sign out").count()):
            sessions.get_by_role("button", name="Sign out").first.click()
            page.wait_for_timeout(300)
        show(other, "money")
        expect(other.get_by_label("Admin token")).to_be_visible()
