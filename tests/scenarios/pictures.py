"""Makes the pictures of docs/dashboard.md: `python -m tests.scenarios.pictures` with Chromium, four minutes.

They show a real pool on a simulated upstream, one with 5 keys and one with 5,000.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.fakes.browser import chromium
from tests.fakes.processes import RunningProxy
from tests.scenarios.busy_pool import Traffic, busy_pool, trouble

IMAGES = Path(__file__).parents[2] / "docs" / "img"
BUSY_S = 150


def logged_in(browser: Browser, proxy: RunningProxy) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB", color_scheme="light")
    page.goto(proxy.command("dashboard", "--no-open").stdout.split()[-1])
    expect(page.get_by_role("navigation")).to_be_visible()
    return page


def show(page: Page, place: str) -> None:
    page.evaluate("place => { location.hash = place; }", f"#/{place}")
    expect(page.locator("h1")).to_be_visible()
    page.wait_for_timeout(1_500)


def of_few(browser: Browser, directory: Path) -> None:
    with busy_pool(directory, 5) as (proxy, simulator):
        trouble(simulator)
        traffic = threading.Thread(target=lambda: asyncio.run(Traffic(proxy, per_second=8).run(BUSY_S + 20)))
        traffic.start()
        page = logged_in(browser, proxy)
        page.wait_for_timeout(1_000 * BUSY_S)
        page.screenshot(path=IMAGES / "dashboard-now.png")
        show(page, "usage?by=client&since=1h")
        page.screenshot(path=IMAGES / "dashboard-usage.png")
        show(page, "requests?errors=true")
        page.get_by_role("row", name=re.compile("429 rate_limit")).first.click()
        page.wait_for_timeout(1_500)
        page.screenshot(path=IMAGES / "dashboard-request.png")
        traffic.join()


def of_many(browser: Browser, directory: Path) -> None:
    with busy_pool(directory, 5_000) as (proxy, simulator):
        for n in range(100, 400):
            simulator.fault(n, "insufficient_quota" if n % 3 else "account_deactivated")
        traffic = threading.Thread(target=lambda: asyncio.run(Traffic(proxy, per_second=60).run(40)))
        traffic.start()
        traffic.join()
        page = logged_in(browser, proxy)
        show(page, "keys")
        page.screenshot(path=IMAGES / "dashboard-keys.png")


def main() -> None:
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not here: apt-get install chromium")
    with chromium(program) as browser, tempfile.TemporaryDirectory() as directory:
        of_few(browser, Path(directory, "few"))
        of_many(browser, Path(directory, "many"))


if __name__ == "__main__":
    main()
