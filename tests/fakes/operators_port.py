"""The operators' port of a test: its real guard, logins and records on a real store, with handlers that only tell
their names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from quotapool.admin.access import Access
from quotapool.admin.http import Call
from quotapool.admin.listener import admin_app
from quotapool.admin.login_handlers import LoginHandlers
from quotapool.admin.oidc_pages import OidcPages
from quotapool.admin.recorder import Recorder
from quotapool.admin.routes import ROUTES
from quotapool.domain.failed_logins import FailedLogins
from quotapool.login.audit import Audit
from quotapool.login.links import Links
from quotapool.login.sessions import Sessions
from quotapool.observe.redaction import Redactor
from quotapool.operators.snapshots import Snapshots
from quotapool.settings import Settings
from quotapool.store.store import Store

from tests.fakes.connect import connect

TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def _page(app: web.Application) -> None:
    async def index(_: web.Request) -> web.Response:
        return web.Response(text="the page", content_type="text/html")

    app.router.add_get("/", index)
    app.router.add_get("/assets/app.js", index)


@dataclass
class OperatorsPort:
    """`settings` may be replaced, as a reload does; `calls`: (route, call) that reached a handler of other rooms."""

    settings: Settings
    store: Store
    token: str = TOKEN
    calls: list[tuple[str, Call]] = field(default_factory=list)
    answer: Callable[[str, Call], Any] = lambda name, _: {"handled_by": name}
    why_not: str = ""
    page: Callable[[web.Application], None] = _page

    @property
    def sessions(self) -> Sessions:
        return Sessions(self.store, self.settings.pool)

    @property
    def links(self) -> Links:
        return Links(self.store, self.settings.pool)

    def audit_lines(self) -> list[dict[str, Any]]:
        file = self.settings.state_dir / "audit.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def app(self) -> web.Application:
        access = Access(self.token, lambda: self.settings, self.sessions)
        audit = Audit(self.store, self.settings.pool, self.settings.state_dir, Redactor([self.token]))
        failed = FailedLogins()
        logins = LoginHandlers(access, self.links, audit, failed)

        def handler(name: str) -> Callable[[Call], Any]:
            async def handle(call: Call) -> Any:
                self.calls.append((name, call))
                found = self.answer(name, call)
                return await found if inspect.isawaitable(found) else found

            return handle

        async def metrics() -> bytes:
            return b"quotapool_up 1\n"

        return admin_app(
            access=access,
            metrics=metrics,
            why_not_ready=lambda: self.why_not,
            why_unhealthy=lambda: "",
            handlers={**{route.name: handler(route.name) for route in ROUTES}, **logins.handlers()},
            around=Recorder(audit, Snapshots(lambda: self.settings, self.store)),
            hosts=lambda: {"quotapool.internal", "proxy.example:9090"},
            pages=(self.page, OidcPages(access, logins, self.store, audit, failed).add_to),
        )


def operators_port(url: str, state_dir: Path, dashboard: dict[str, Any] | None = None, **options: Any) -> OperatorsPort:
    """On the store at `url`; nothing connects before something needs it."""
    settings = Settings.model_validate({"state_dir": state_dir, "dashboard": dashboard or {}, **options})
    return OperatorsPort(settings, connect(url))
