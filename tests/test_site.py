"""The site of the documents: builds strictly, needs no other host, and is searched in English and in Chinese."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.fakes.browser import chromium, opened

ROOT = Path(__file__).parents[1]
# What a browser loads by itself; a link is followed by a reader.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|object)\b[^>]*?\b(?:src|data)=["']?((?:https?:)?//[^"'\s>]+)"""
)
SHEET = re.compile(
    r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preconnect|preload))[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
)
IN_SHEET = re.compile(r"""(?:url\(["']?|@import\s+["'])((?:https?:)?//[^"')]+)""")


@pytest.fixture(scope="module")
def mkdocs() -> Path:
    if not Path(sys.prefix, ".site").exists():
        missing("what makes the site")
    return Path(sys.prefix, "site", "bin", "mkdocs")


@pytest.fixture(scope="module")
def site(mkdocs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Nothing on the way to another host answers."""
    folder = tmp_path_factory.mktemp("site")
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **closed, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_every_page_is_there_in_both_languages(site):
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if ".zh" not in path.suffixes}
    for source in sources:
        place = source.parent if source.stem == "README" else source.with_suffix("")
        for language in ("", "zh"):
            assert (site / language / place / "index.html").exists(), f"{language or 'en'}: {source}"


def test_nothing_is_loaded_from_another_host(site):
    found = {
        address
        for page in site.rglob("*.html")
        for expr in (LOADED, SHEET)
        for address in expr.findall(page.read_text())
    }
    found |= {address for sheet in site.rglob("*.css") for address in IN_SHEET.findall(sheet.read_text())}
    assert found == set()


def test_a_page_that_loads_from_another_host_would_be_found():
    assert LOADED.findall('<script defer src="https://cdn.example/x.js">') == ["https://cdn.example/x.js"]
    assert SHEET.findall('<link rel="stylesheet" href="//fonts.example/a.css">') == ["//fonts.example/a.css"]
    assert IN_SHEET.findall("a{background:url(https://x.example/p.png)}") == ["https://x.example/p.png"]


def test_links_out_of_docs_lead_to_the_repository(site):
    page = (site / "index.html").read_text()
    home = "https://github.com/quotapool/quotapool"
    assert f'href="{home}/blob/main/config/quotapool.example.yaml"' in page
    assert f'href="{home}/blob/main/README.md"' in page
    left = {
        link
        for path in site.rglob("*.html")
        for link in re.findall(r'href="((?!https?:|mailto:)[^"]*\.(?:md|yaml|py))"', path.read_text())
    }
    assert left == set()


def test_a_translation_has_the_anchors_of_its_source(site):
    """So that links of pages that are not translated lead to the right place of one that is."""
    for source in (ROOT / "docs").glob("*.md"):
        if not source.with_suffix(".zh.md").exists():
            continue
        place = "index.html" if source.stem == "README" else f"{source.stem}/index.html"
        wanted, found = (
            set(re.findall(r'<(?:h[2-6]|a) id="([^"]+)"', (site / folder / place).read_text())) for folder in ("", "zh")
        )
        assert wanted <= found, source.name


def test_the_navigation_names_a_translation_by_its_own_title(site):
    navigation = (site / "zh" / "index.html").read_text().partition("<article")[0]
    for source in (ROOT / "docs").glob("*.zh.md"):
        title = re.search(r"^# (.+)$", source.read_text(), re.MULTILINE)
        assert title
        assert title[1] in navigation, source.name


def test_each_language_has_an_index_of_its_own(site):
    for folder in ("", "zh"):
        places = [
            entry["location"] for entry in json.loads((site / folder / "search/search_index.json").read_text())["docs"]
        ]
        assert len(places) == len(set(places)) > 100
        assert not [place for place in places if place.startswith("zh/")]
        assert all((site / folder / place.partition("#")[0] / "index.html").exists() for place in places)


@pytest.mark.parametrize(
    ("page", "query", "expected"),
    [
        ("keys/", "quarantined", "/keys/"),
        ("zh/", "隔离", "/zh/glossary/"),
        ("zh/glossary/", "冷却", "/zh/glossary/"),
    ],
    ids=["English", "Chinese", "Chinese, from a page below"],
)
def test_a_search_in_a_browser_finds_a_page(address, program: Callable[[str], str], page, query, expected):
    with chromium(program("chromium")) as browser, opened(browser, address + page) as tab:
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.locator("input[name=query]").click()
        tab.keyboard.type(query)
        tab.keyboard.press("End")  # as with an input method, the last thing is a key
        first = tab.locator(f".md-search-result__item a[href*='{expected}']").first
        first.wait_for()
        target = str(first.get_attribute("href"))
        tab.goto(target)
        assert query in tab.locator("article").inner_text()
        assert expected in tab.url
        assert [url for url in asked if not url.startswith(address) and not url.startswith("data:")] == []
