"""The dashboard's files: open to the operator's browser, closed to other pages, and compressed once."""

from __future__ import annotations

import gzip

import pytest
from quotapool.dashboard.files import Files
from quotapool.operators.admin_routes import ROUTES
from quotapool.operators.listener import admin_app

SCRIPT = b"console.log('hello');\n" * 200
GIVEN = {
    "index.html": b"<!doctype html><title>x</title>",
    "app.js": SCRIPT,
    "app-3FJ2K8QD.css": b"body{}",
    "a.png": SCRIPT,
}


@pytest.fixture
async def page(aiohttp_client):
    async def handler(_):
        return {}

    async def metrics():
        return b""

    app = admin_app(
        token="0123456789abcdef",
        metrics=metrics,
        why_not_ready=lambda: "",
        why_unhealthy=lambda: "",
        handlers={route.name: handler for route in ROUTES},
        hosts=lambda: {"quotapool.internal"},
        more=Files(GIVEN).routes(),
    )
    return await aiohttp_client(app)


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
    assert {"index.html", "app.js", "app.css"} <= set(files)
    index = files["index.html"]
    assert b"/assets/app.js" in index.body
    assert index.small is None or gzip.decompress(index.small) == index.body
