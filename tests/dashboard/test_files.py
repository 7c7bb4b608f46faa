"""The dashboard's files: open to the operator's browser, closed to other pages, and compressed once."""

from __future__ import annotations

import gzip
import re

import pytest
from quotapool.dashboard.files import Files
from quotapool.settings.dashboard import Dashboard

from tests.fakes.operators_port import operators_port

SCRIPT = b"console.log('hello');\n" * 200
GIVEN = {
    "index.html": b"<!doctype html><title>x</title>",
    "app.js": SCRIPT,
    "app-3FJ2K8QD.css": b"body{}",
    "a.png": SCRIPT,
}


@pytest.fixture
async def port(valkey_url, tmp_path):
    made = operators_port(valkey_url, tmp_path, allowed_hosts=("quotapool.internal",))
    made.page = Files(GIVEN).add_to
    yield made
    await made.store.close()


@pytest.fixture
async def page(port, aiohttp_client):
    return await aiohttp_client(port.app())


async def test_a_browser_gets_the_page_without_a_token(page):
    answer = await page.get("/", headers={"Accept": "text/html"})
    assert (answer.status, await answer.read()) == (200, GIVEN["index.html"])
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"


async def test_a_link_on_another_site_leads_to_the_page(page):
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await page.get("/", headers=followed)).status == 200


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/assets/nothing"])
async def test_a_rebound_host_gets_nothing(page, path):
    answer = await page.get(path, headers={"Host": "evil.example"})
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/assets/app-3FJ2K8QD.css"])
async def test_every_file_comes_with_headers_that_keep_other_pages_out(page, path):
    headers = (await page.get(path)).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy)
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_files_named_by_their_content_are_kept_for_ever_others_are_asked_for_again(page):
    hashed = await page.get("/assets/app-3FJ2K8QD.css")
    assert hashed.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    plain = await page.get("/assets/app.js")
    assert plain.headers["Cache-Control"] == "no-cache"
    again = await page.get("/assets/app.js", headers={"If-None-Match": plain.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(("accepted", "encoding"), [("gzip, br", "gzip"), ("identity", None)])
async def test_text_is_sent_compressed_to_those_who_accept_it(page, accepted, encoding):
    answer = await page.get("/assets/app.js", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == encoding
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert await answer.read() == SCRIPT
    raw = await page.session.get(
        page.make_url("/assets/app.js"), headers={"Accept-Encoding": accepted}, auto_decompress=False
    )
    assert (len(await raw.read()) < len(SCRIPT) / 10) is (encoding == "gzip")


@pytest.mark.parametrize("path", ["/assets/nothing.js", "/assets/", "/assets/..%2Ffiles.py", "/assets/%2e%2e/files.py"])
async def test_nothing_but_the_files_is_served(page, path):
    assert (await page.get(path)).status in {401, 404}


async def test_the_package_has_the_page():
    files = Files()._files
    index = files["index.html"]
    loaded = re.findall(rb"/assets/([^\"]+)", index.body)
    assert {name.rpartition(b".")[2] for name in loaded} == {b"js", b"css"}
    assert {name.decode() for name in loaded} <= set(files)
    assert index.small is None or gzip.decompress(index.small) == index.body
    assert all("immutable" in file.headers["Cache-Control"] for name, file in files.items() if name != "index.html")


async def test_a_page_that_is_turned_off_is_not_there(port, page):
    port.settings = port.settings.model_copy(update={"dashboard": Dashboard(enabled=False)})
    answer = await page.get("/")
    assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
