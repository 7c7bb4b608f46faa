"""OpenAI's old billing pages, for a browser's session key only: how much of an account's credit is left.

Shapes: as gateways still emulate them. An account's session key is always `simulated_session_secret(account)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from aiohttp import web

from quotapool.simulator import errors
from quotapool.simulator.accounts import Account, Directory
from quotapool.simulator.config import FIXED_TAIL
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.log import RequestLog
from quotapool.simulator.sales import PICODOLLARS

PAGES: Final = "/v1/dashboard/billing"


def simulated_session_secret(account: str) -> str:
    return f"sess-sim-{account}-{FIXED_TAIL}"


class Money(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An account's money: prepaid USD, monthly spend limits in cents, the end of its session key."""

    granted_usd: float = 100.0
    access_until: int = 4_102_444_800  # Unix seconds: the year 2100
    project_limit_cents: int | None = None
    organization_limit_cents: int | None = None
    session_expired: bool = False


@dataclass
class Billing:
    """Handlers of `PAGES`, and of POST /_sim/accounts/{id}/money, which sets an account's `Money`."""

    directory: Directory
    log: RequestLog
    money: dict[str, Money] = field(default_factory=dict)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get(PAGES + "/{page}", self.page)
        router.add_post("/_sim/accounts/{account}/money", self.set_money)

    def of(self, account: Account) -> Money:
        return self.money.get(account.config.id, Money())

    async def page(self, request: web.Request) -> web.Response:
        self.log.record(request.method, request.raw_path, request.headers, await request.read())
        secret = bearer_of(request)
        accounts = self.directory.accounts.values()
        account = next((a for a in accounts if simulated_session_secret(a.config.id) == secret), None)
        if account is None:
            return refuse(errors.invalid_api_key(secret) if secret.startswith("sess-") else session_needed(request))
        money = self.of(account)
        if money.session_expired:
            return refuse(ErrorReply(401, "Your session has expired. Please log in again.", code="token_expired"))
        match request.match_info["page"]:
            case "credit_grants":
                used = self.directory.sales.total(account.config.id) / PICODOLLARS
                totals = {"total_granted": money.granted_usd, "total_used": used}
                return reply({"object": "credit_summary", **totals, "total_available": money.granted_usd - used})
            case "subscription":
                limits = {"soft_limit_usd": 80.0, "hard_limit_usd": 100.0, "system_hard_limit_usd": 500.0}
                paid = {"has_payment_method": True, "access_until": money.access_until}
                return reply({"object": "billing_subscription", **limits, **paid})
            case "usage":
                start, end = (day_in(request, name) for name in ("start_date", "end_date"))
                cents = self.directory.sales.total(account.config.id, start, end) * 100 / PICODOLLARS
                return reply({"object": "list", "total_usage": cents})
        return refuse(ErrorReply(404, f"Invalid URL (GET {request.path})"))

    async def set_money(self, request: web.Request) -> web.Response:
        if request.match_info["account"] not in self.directory.accounts:
            raise web.HTTPNotFound
        money = msgspec.json.decode(await request.read(), type=Money)
        self.money[request.match_info["account"]] = money
        return reply(msgspec.structs.asdict(money))


def day_in(request: web.Request, name: str) -> int:
    """A date in the query as Unix seconds; if absent, today or tomorrow."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    default = today if name == "start_date" else today + timedelta(days=1)
    text = request.query.get(name)
    return int((datetime.fromisoformat(text).replace(tzinfo=UTC) if text else default).timestamp())


def session_needed(request: web.Request) -> ErrorReply:
    message = (
        f"Your request to GET {request.path} must be made with a session key (that is, it can only be made from the "
        "browser). You made it with the following key type: secret."
    )
    return ErrorReply(403, message, "server_error")


def bearer_of(request: web.Request) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def reply(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def refuse(error: ErrorReply) -> web.Response:
    return web.Response(status=error.status, body=error.body(), headers=error.headers())
