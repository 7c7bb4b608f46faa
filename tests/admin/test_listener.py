"""The admin listener: three open pages for machines, the rest for holders of the token, nothing for web pages."""

from __future__ import annotations

import asyncio
import re

import jsonschema
import pytest
from quotapool.admin.openapi import document
from quotapool.admin.routes import ERROR_CODES, PREFIX, ROUTES, ApiError
from quotapool.shapes import clients as client_shapes
from quotapool.shapes import general as shapes
from quotapool.shapes import work as work_shapes

from tests.fakes.operators_port import BEARER, TOKEN, operators_port

NO_LOGIN = {"login_methods", "login", "logout", "show_session", "list_logins", "end_login"}


@pytest.fixture
async def operators(aiohttp_client, tmp_path):
    """With a store that is away: what comes with the token needs none."""
    port = operators_port(f"unix://{tmp_path}/nowhere.sock", tmp_path)

    def answer(name, call):
        if call.id == "nobody":
            raise ApiError("not_found", "no such key")
        if call.id == "broken":
            raise RuntimeError("sk-proj-a-secret-in-a-bug-0001")
        return {"handled_by": name}

    port.answer = answer
    client = await aiohttp_client(port.app())
    client.port_of_operators = port
    yield client
    await port.store.close()


async def test_machines_need_no_token_and_no_host(operators):
    answer = await operators.get("/metrics", headers={"Host": "10.1.2.3:9090"})
    assert (answer.status, await answer.read()) == (200, b"quotapool_up 1\n")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert (await operators.get("/healthz", headers={"Host": "whatever"})).status == 200
    assert (await operators.get("/readyz")).status == 200


@pytest.mark.parametrize(("accepted", "encoding"), [("gzip", "gzip"), ("br, gzip;q=0.5", "gzip"), ("identity", None)])
async def test_metrics_are_compressed_for_those_who_ask_for_it(operators, accepted, encoding):
    answer = await operators.get("/metrics", headers={"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == encoding
    assert await answer.read() == b"quotapool_up 1\n"


async def test_not_ready_gives_the_reason(operators):
    operators.port_of_operators.why_not = "draining"
    answer = await operators.get("/readyz")
    assert (answer.status, await answer.text()) == (503, "draining\n")
    assert (await operators.get("/healthz")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ],
)
@pytest.mark.parametrize("path", ["/admin/keys", "/admin/openapi.json", "/admin/nothing", "/nothing", "/admin/logins"])
async def test_everything_else_needs_the_token_even_what_is_not_there(operators, path, sent):
    answer = await operators.get(path, headers=sent)
    assert (answer.status, (await answer.json())["error"]["code"]) == (401, "admin_token_wanted")
    assert operators.port_of_operators.calls == []


async def test_any_bytes_may_come_as_a_token(operators):
    reader, writer = await asyncio.open_connection(operators.host, operators.port)
    writer.write(b"GET /admin/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


# ---- no web page gets in, token or not ----


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9090", ""])
async def test_a_rebound_name_is_refused_with_the_right_token_too(operators, host):
    answer = await operators.get("/admin/keys", headers={**BEARER, "Host": host})
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "quotapool.internal:80", "proxy.example:9090"]
)
async def test_loopback_and_configured_hosts_are_served(operators, host):
    assert (await operators.get("/admin/keys", headers={**BEARER, "Host": host})).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_page_of_another_origin_is_refused_with_the_right_token_too(operators, sent):
    headers = {**BEARER, "Host": "127.0.0.1:9090", **sent}
    answer = await operators.post("/admin/keys/alpha/disable", headers=headers)
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "page_not_allowed")
    assert operators.port_of_operators.calls == []


async def test_a_page_that_this_port_served_itself_may_go_on(operators):
    own = {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090", "Sec-Fetch-Site": "same-origin"}
    assert (await operators.get("/admin/keys", headers={**BEARER, **own})).status == 200


# ---- requests are validated by their types ----


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.name not in NO_LOGIN], ids=lambda route: route.name
)
async def test_every_route_of_the_table_is_served_by_its_own_handler(operators, route):
    needed = {
        client_shapes.NewClient: {"id": "new"},
        client_shapes.NewTeam: {"id": "new"},
        shapes.NewKey: {"secret": "sk-x"},
        work_shapes.KeyWork: {"action": "drain", "ids": ["a"]},
        work_shapes.KeyImport: {"text": "sk-x"},
        work_shapes.TopUp: {"usd": 5},
        work_shapes.DryRun: {"body": {}},
        None: None,
    }
    body = needed.get(route.body, {})
    path = PREFIX + route.path.replace("{id}", "org/al%20pha".replace("/", "%2F"))
    answer = await operators.request(route.method, path, json=body, headers=BEARER)
    assert (answer.status, await answer.json()) == (route.status, {"handled_by": route.name})
    assert answer.headers["Cache-Control"] == "no-store"
    ((name, call),) = operators.port_of_operators.calls
    assert (name, call.id) == (route.name, "org/al pha" if "{id}" in route.path else "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"secret": 5}',
        b'{"secret": ""}',
        b'{"secret": "sk-x", "nonsense": 1}',
        b'{"secret": "sk-x", "weight": 0}',
        b'{"secret": "sk-x", "grants": [{"usd": -1}]}',
        b'{"secret": "sk-x", "grants": [{"usd": 1, "expires_on": "soon"}]}',
        b"\xff\xfe",
    ],
)
async def test_a_wrong_body_is_a_clear_400(operators, body):
    answer = await operators.post("/admin/keys", data=body, headers=BEARER)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["type"]) == (400, "bad_request", "invalid_request_error")
    assert "The body is not" in error["message"]


async def test_a_secret_in_the_wrong_place_is_not_repeated(operators):
    secret = "sk-proj-canaryInTheWrongPlace0001"
    for body in ({secret: 1}, {"secret": "sk-x", secret: 2}):
        answer = await operators.post("/admin/keys", json=body, headers=BEARER)
        assert answer.status == 400
        assert secret not in await answer.text()
    answer = await operators.get(f"/admin/usage?by={secret}", headers=BEARER)
    assert answer.status == 400
    assert secret not in await answer.text()


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "before=yesterday", "nonsense=1"])
async def test_a_wrong_query_is_a_clear_400(operators, query):
    answer = await operators.get(f"/admin/events?{query}", headers=BEARER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/keys?state=remvoed", None),
        ("GET", "/admin/pool?verbose=1", None),
        ("GET", "/admin/clients?limit=5", None),
        ("POST", "/admin/keys/key-0/disable", {"for": "an hour"}),
        ("POST", "/admin/keys/key-0/enable?now=1", None),
        ("DELETE", "/admin/keys/key-0", {"dry_run": True}),
    ],
)
async def test_what_a_call_does_not_take_is_not_ignored(operators, method, path, body):
    """A caller who writes `?state=remvoed` must not conclude that no key is removed."""
    answer = await operators.request(method, path, json=body, headers=BEARER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_request")
    assert operators.port_of_operators.calls == []


async def test_a_body_over_one_mebibyte_is_a_413(operators):
    answer = await operators.post("/admin/keys", data=b" " * (2**20 + 1), headers=BEARER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (413, "body_too_large")


async def test_what_does_not_exist_is_an_error_of_the_same_shape(operators):
    for method, path, status, code in (
        ("GET", "/admin/nothing", 404, "not_found"),
        ("GET", "/admin/keys/nobody", 404, "not_found"),
        ("PATCH", "/admin/keys", 405, "method_not_allowed"),
    ):
        answer = await operators.request(method, path, headers=BEARER)
        assert (answer.status, (await answer.json())["error"]["code"]) == (status, code)


async def test_a_bug_of_ours_is_a_500_without_its_words(operators):
    answer = await operators.get("/admin/keys/broken", headers=BEARER)
    assert (answer.status, (await answer.json())["error"]["code"]) == (500, "internal_error")
    assert "secret-in-a-bug" not in await answer.text()


# ---- the document ----


async def test_the_document_is_served_and_is_that_of_the_table(operators):
    page = await (await operators.get("/admin/openapi.json", headers=BEARER)).json()
    served = {
        (method.upper(), path.removeprefix(PREFIX), operation["operationId"])
        for path, item in page["paths"].items()
        for method, operation in item.items()
    }
    assert served == {(route.method, route.path, route.name) for route in ROUTES}


def test_the_document_is_valid_openapi_3_1():
    page = document("1.2.3")
    # The rules of the OpenAPI Specification 3.1.0, sections 4.8.1 to 4.8.25, for the parts that are used here.
    assert re.fullmatch(r"3\.1\.\d+", page["openapi"])
    assert {"title", "version"} <= set(page["info"])
    assert page["security"] == [{"adminToken": []}]
    assert page["components"]["securitySchemes"]["adminToken"] == {"type": "http", "scheme": "bearer"}
    operations = [(path, operation) for path, item in page["paths"].items() for operation in item.values()]
    names = [operation["operationId"] for _, operation in operations]
    assert len(set(names)) == len(names)
    for path, operation in operations:
        assert path.startswith("/")
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in operation["responses"])
        assert all(answer["description"] for answer in operation["responses"].values())
        assert {"401", "403"} <= set(operation["responses"])
    for schema in page["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = re.findall(r'"\$ref": "([^"]+)"', __import__("json").dumps(page))
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in page["components"]["schemas"]


def test_the_documented_body_of_a_new_key_refuses_what_the_listener_refuses():
    page = document("1")
    schema = {"$ref": "#/components/schemas/NewKey", "components": page["components"]}
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({"secret": "sk-x", "grants": [{"usd": 5, "expires_on": "2027-01-01"}]})
    assert not valid({})
    assert not valid({"secret": ""})
    assert not valid({"secret": "sk-x", "nonsense": 1})
    assert not valid({"secret": "sk-x", "weight": 0})


def test_every_code_is_documented_for_people():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", page, re.MULTILINE)
    assert {(int(status), code) for status, code in rows} == {
        (status, code) for code, (status, _) in ERROR_CODES.items()
    }
    for route in ROUTES:
        assert f"`{route.method} {PREFIX}{route.path}`" in page
