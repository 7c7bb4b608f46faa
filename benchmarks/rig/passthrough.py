"""The reference: the plainest reverse proxy that aiohttp's own pages lead to, on uvloop, with one key and no rules.

python benchmarks/rig/passthrough.py PORT UPSTREAM
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "authorization"}
SESSION = web.AppKey("session", ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    headers["Authorization"] = "Bearer sk-upstream-0"
    body = await request.read()
    async with request.app[SESSION].request(request.method, request.rel_url, headers=headers, data=body) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if answer.content_type != "text/event-stream":
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def main(upstream: str) -> web.Application:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", forward)

    async def session(app: web.Application):
        async with ClientSession(
            upstream, connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        ) as app[SESSION]:
            yield

    app.cleanup_ctx.append(session)
    return app


if __name__ == "__main__":
    uvloop.install()
    port, upstream = int(sys.argv[1]), sys.argv[2]
    web.run_app(main(upstream), host="127.0.0.1", port=port, print=None, access_log=None)
