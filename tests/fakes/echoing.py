"""An upstream that repeats the key it was given wherever an upstream can: what the model's name asks for is done."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

# The key is repeated in full, as OpenAI masks it, within JSON, within plain text and in headers.
_MODELS = {
    "echo-400": (400, "invalid_request_error", "weird_code"),
    "echo-500": (500, "server_error", None),
    "echo-429": (429, "requests", "rate_limit_exceeded"),
    "echo-401": (401, "invalid_request_error", "invalid_api_key"),
}
_REFUSED = ("/v1/models", "/v1/organization/", "/v1/dashboard/")
_OK = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def masked(secret: str) -> str:
    """As OpenAI echoes a wrong key: the first eight and the last four characters."""
    return f"{secret[:8]}{'*' * (len(secret) - 12)}{secret[-4:]}"


async def _answer(request: web.Request) -> web.StreamResponse:
    secret = request.headers.get("Authorization", "").partition(" ")[2]
    body = await request.read()
    try:
        model = json.loads(body)["model"] if body else "echo-401" if request.path.startswith(_REFUSED) else ""
    except ValueError:
        model = ""
    echoed = {"x-request-id": f"req_{secret}", "x-echo": f"Bearer {secret}", "WWW-Authenticate": f'Key "{secret}"'}
    says = f"Incorrect API key provided: {masked(secret)}. It was [{secret}], sent as Bearer {secret}."
    if model in _MODELS:
        status, kind, code = _MODELS[model]
        error = {"error": {"message": says, "type": kind, "param": secret, "code": code, secret: {"key": [secret]}}}
        return web.json_response(error, status=status, headers=echoed)
    if model == "text-500":
        return web.Response(status=500, text=f"{{not json, {says}", headers=echoed)
    if model == "broken-json":
        return web.Response(text='{"id": "x", "usage": ', headers={**echoed, "Content-Type": "application/json"})
    if model in {"stream-error", "stream-broken"}:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **echoed})
        await response.prepare(request)
        if model == "stream-error":
            error = {"error": {"message": says, "type": "server_error", "param": None, "code": "server_error"}}
            await response.write(b"data: " + json.dumps(error).encode() + b"\n\n")
            return response
        await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        _cut(request)
        return response
    if model == "bad-http":
        if request.transport is not None:
            request.transport.write(f"HTTP/9.9 {secret}\r\n{secret} : {secret}\r\n\r\n".encode())
        _cut(request)
        return web.Response()
    if model == "reset":
        _cut(request)
        return web.Response()
    return web.json_response(_OK, headers=echoed)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


@contextmanager
def echoing_upstream() -> Iterator[str]:
    """Its URL; served by a thread as long as the block lasts."""
    started, url = threading.Event(), [""]
    loop = asyncio.new_event_loop()

    async def serve(stop: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", _answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url[0] = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stop.wait()
        await runner.cleanup()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()
