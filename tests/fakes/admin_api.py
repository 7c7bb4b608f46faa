"""OpenAI's admin API as a script: it answers what the test lays out, in order, and remembers what was asked."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web


class ScriptedApi:
    """`answers`: (status, document or text, headers) each; the last one is repeated."""

    def __init__(self, *answers: tuple[int, Any] | tuple[int, Any, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.authorizations: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, list(request.query.items())))
        self.authorizations.append(request.headers.get("Authorization", ""))
        status, document, *more = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text = document if isinstance(document, str) else json.dumps(document)
        return web.Response(status=status, text=text, headers=more[0] if more else {})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app


def refusal(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
