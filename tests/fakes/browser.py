"""Debian's Chromium, driven by Playwright: pages that fail their test on any error in the console, and axe-core."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

_OFFLINE = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", *_OFFLINE)
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


@contextlib.contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # The forward proxy that a tester's environment may name does not know the test's own addresses.
        plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        browser = playwright.chromium.launch(executable_path=executable, args=[*_FLAGS], env=dict(plain))
        try:
            yield browser
        finally:
            browser.close()


class Problems(list[str]):
    """What a page said that it must not: errors and warnings of the console, exceptions, blocked by its own policy."""

    def watch(self, page: Page, *, but: tuple[str, ...] = ()) -> None:
        """`but`: parts of messages that the test itself brings about, as a refused call does."""

        def console(message: Any) -> None:
            if message.type in {"error", "warning"} and not any(part in message.text for part in but):
                self.append(f"{message.type}: {message.text}")

        page.on("console", console)
        page.on("pageerror", lambda error: self.append(f"exception: {error}"))


@contextlib.contextmanager
def opened(browser: Browser, url: str, *, but: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """A page in a context of its own (no cookies); at its end it must have had no problem."""
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    problems = Problems()
    try:
        page = context.new_page()
        problems.watch(page, but=but)
        page.goto(url)
        yield page
        assert problems == []
    finally:
        context.close()


def violations(page: Page, axe: Path) -> list[str]:
    """What axe-core finds wrong for people who use a keyboard or a screen reader. `axe`: axe.min.js."""
    page.evaluate(axe.read_text() + "; 0")
    found = page.evaluate("axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})")
    return [
        f"{one['id']}: {one['help']}: {json.dumps([node['target'] for node in one['nodes']][:5])}"
        for one in found["violations"]
    ]
