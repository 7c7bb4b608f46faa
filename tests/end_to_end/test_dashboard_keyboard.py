"""The operators' page by keyboard alone, in a real browser on a real pool: where the focus is, and that it is seen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fakes.browser import chromium, opened
from tests.fakes.processes import RunningProxy, fetch
from tests.scenarios.busy_pool import Traffic, busy_pool, key_of

KEYS = 60  # asking upstream about all of them takes longer than the page needs to look again

# Whether the ring around what has the focus lies within all that cuts what is outside of it.
CUT = """() => {
  const one = document.activeElement, style = getComputedStyle(one), ring = one.getBoundingClientRect();
  const by = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineOffset) + parseFloat(style.outlineWidth);
  const cuts = [];
  for (let above = one.parentElement; above; above = above.parentElement) {
    if (getComputedStyle(above).overflowX === "visible") continue;
    const box = above.getBoundingClientRect();
    const out = [box.left - ring.left, box.top - ring.top, ring.right - box.right, ring.bottom - box.bottom];
    if (Math.max(...out) + by > 0.6) cuts.push(`${one.textContent} by ${above.tagName}.${above.className}`);
  }
  return cuts;
}"""
ROW = "document.activeElement.closest('tr')?.innerText"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with busy_pool(tmp_path_factory.mktemp("pool"), KEYS) as (proxy, _):
        with ThreadPoolExecutor(1) as beside:  # this thread may have Playwright's event loop
            beside.submit(asyncio.run, Traffic(proxy, per_second=20).run(3)).result()
        yield proxy


@pytest.fixture(scope="module")
def browser(program) -> Iterator[Browser]:
    with chromium(program("chromium")) as started:
        yield started


@pytest.fixture
def page(browser, proxy) -> Iterator[Page]:
    """Logged in with nothing but the keyboard."""
    token = (proxy.state_dir / "admin-token").read_text().strip()
    with opened(browser, f"{proxy.admin_url}/", locale="en-GB") as page:
        expect(page.get_by_label("Admin token")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("navigation")).to_be_visible()
        yield page


def show(page: Page, place: str) -> None:
    page.evaluate("place => { location.hash = place; }", f"#/{place}")
    expect(page.locator("h1")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(place.count("/"))  # of one thing among them


def press(page: Page, button: str) -> None:
    """Of the dialog that is above all else, else of the page."""
    dialogs = page.get_by_role("dialog")
    inside = dialogs.last if dialogs.count() else page.locator("main")
    inside.get_by_role("button", name=button, exact=True).focus()
    page.keyboard.press("Enter")


def press_and_agree(page: Page, button: str) -> None:
    """A button that asks, and the one of its question."""
    press(page, button)
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, button)


def choose_all(page: Page) -> None:
    show(page, "keys")
    expect(page.get_by_role("row", name=re.compile("key-0"))).to_be_visible()
    press(page, "Choose all 60 that match")


# ---- where Tab leads


def test_a_row_and_its_links_are_all_the_steps_that_tab_needs_in_a_table(page):
    show(page, "keys")
    row = page.get_by_role("row", name=re.compile("key-2 "))
    row.focus()
    page.keyboard.press("Tab")
    expect(row.get_by_role("link")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('[role=grid]')") is None
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(row).to_be_focused()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_ring_around_what_has_the_focus_is_seen_whole(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for screen in ("keys", "requests", "usage", "clients"):
        show(page, screen)
        expect(page.get_by_role("row").nth(1)).to_be_visible()
        page.locator(".skip").focus()
        while page.evaluate("document.activeElement !== document.body"):
            assert page.evaluate(CUT) == [], screen
            page.keyboard.press("Tab")


def test_what_the_menu_of_a_narrow_page_shows_is_in_the_order_of_tab(page):
    page.set_viewport_size({"width": 360, "height": 800})
    page.get_by_role("button", name="Menu").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Language")).to_be_visible()
    tops = []
    while page.evaluate("document.activeElement.closest('.side') !== null"):
        tops.append(page.evaluate("document.activeElement.closest('header, nav, footer').getBoundingClientRect().top"))
        page.keyboard.press("Tab")
    assert len(tops) > 10
    assert tops == sorted(tops)


# ---- the focus is kept


def test_a_button_that_was_pressed_keeps_the_focus(page):
    show(page, "keys/key-2")
    for verb, state in (("Disable", "disabled"), ("Enable", "active")):
        press(page, verb)
        expect(page.get_by_role("dialog").get_by_text(state, exact=True).first).to_be_visible()
        expect(page.get_by_role("button", name=verb, exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    choose_all(page)
    expect(page.get_by_role("button", name="Choose none")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Choose all 60 that match")).to_be_focused()


def test_when_what_had_the_focus_is_gone_the_keyboard_goes_on_in_the_screen(page):
    main = page.locator("main")
    choose_all(page)
    press_and_agree(page, "Enable")
    expect(page.get_by_text("60 of 60 done")).to_be_visible()
    expect(main).to_be_focused()
    press(page, "Close")
    expect(page.get_by_text("60 of 60 done")).to_have_count(0)
    expect(main).to_be_focused()
    show(page, "keys?q=nothing-like-it")
    press(page, "Clear filters")
    expect(page.get_by_role("row").nth(1)).to_be_visible()
    expect(main).to_be_focused()


def test_what_has_the_focus_stays_the_same_when_rows_change_places(page, proxy):
    show(page, "now")
    links = page.get_by_role("group", name="Room by model").get_by_role("link")
    expect(links.first).to_be_visible()
    links.first.focus()
    before = page.evaluate(ROW).split()[:2]
    other = next(name for name in links.all_inner_texts() if name != before[0])
    body = {"model": other, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1_500}
    known = {"Authorization": f"Bearer {key_of('search')}"}
    for _ in range(12):
        assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=known)[0] == 200
    expect(links.first).to_have_text(other)
    assert page.evaluate(ROW).split()[:2] == before


# ---- Enter


def test_enter_in_a_field_of_a_question_is_its_yes(page):
    show(page, "money/key-3")
    press(page, "Top up")
    amount = page.get_by_label("US dollars")
    amount.focus()
    page.keyboard.type("25")
    page.keyboard.press("Enter")
    expect(amount).to_have_count(0)
    expect(page.get_by_role("dialog")).to_contain_text("$25.00")


# ---- what is said


def test_work_on_many_keys_is_announced_when_it_is_done(page):
    choose_all(page)
    page.evaluate("""() => {
      window.said = [];
      new MutationObserver(changes => changes.forEach(({target}) => {
        const status = (target.closest ? target : target.parentElement)?.closest("[role=status]:not([aria-busy=true])");
        if (status) window.said.push(status.innerText);
      })).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    press_and_agree(page, "Probe")
    expect(page.get_by_text("60 of 60 done")).to_be_visible()
    said = [text for text in page.evaluate("window.said") if " of 60 done" in text]
    assert [text for text in said if not text.startswith("60 of 60 done")] == []
