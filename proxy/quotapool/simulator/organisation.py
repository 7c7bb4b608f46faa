"""OpenAI's administration API, answered with what the simulator really served.

Shapes: OpenAI's Python SDK 3.54, `types/admin/organization`. An organisation's admin key is
`simulated_admin_secret(organization)`, always the same, so that no test has to configure it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp import web

from quotapool.simulator import errors
from quotapool.simulator.accounts import Account, Directory, Key
from quotapool.simulator.billing import Billing, bearer_of, refuse, reply
from quotapool.simulator.config import FIXED_TAIL, Limits
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.log import RequestLog
from quotapool.simulator.replies import MODEL_CREATED, MODELS
from quotapool.simulator.sales import DAY_S, PICODOLLARS, SaleKey, SaleTotals

ADMIN: Final = "/v1/organization"
MOST_OBJECTS: Final = 100  # on a page; 20 by default
MOST_DAYS: Final = {"costs": 180, "usage": 31}  # buckets on a page; 7 by default
# Kinds of sales that `usage/{name}` counts.
USAGE: Final = {
    "completions": frozenset(("chat", "completions", "responses")),
    "embeddings": frozenset(("embeddings",)),
}
BATCH_DAYS_OF_TPM: Final = 10


def simulated_admin_secret(organization: str) -> str:
    return f"sk-admin-sim-{organization}-{FIXED_TAIL}"


class KeyFacts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the dashboard knows about a key. `expires_at` in Unix seconds."""

    name: str = ""
    expires_at: int | None = None


@dataclass
class Administration:
    """Handlers of `ADMIN`, and of POST /_sim/keys/{key}/facts, which sets a key's `KeyFacts`."""

    directory: Directory
    log: RequestLog
    billing: Billing
    key_facts: dict[int, KeyFacts] = field(default_factory=dict)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        project = ADMIN + "/projects/{project}"
        for path, handler in (
            (ADMIN + "/projects", self.projects),
            (project + "/rate_limits", self.rate_limits),
            (project + "/api_keys", self.api_keys),
            (project + "/spend_limit", self.project_spend_limit),
            (ADMIN + "/spend_limit", self.organization_spend_limit),
            (ADMIN + "/costs", self.costs),
            (ADMIN + "/usage/{kind}", self.usage),
        ):
            router.add_get(path, self.administrative(handler))
        router.add_post("/_sim/keys/{key}/facts", self.set_facts)

    # ---- authentication

    def administrative(
        self, handler: Callable[[web.Request, list[Account]], web.Response]
    ) -> Callable[[web.Request], Any]:
        """`handler`, called with the accounts (projects) of the organisation whose admin key was sent."""

        async def answer(request: web.Request) -> web.Response:
            self.log.record(request.method, request.raw_path, request.headers, await request.read())
            secret = bearer_of(request)
            accounts = [
                a for a in self.directory.accounts.values() if simulated_admin_secret(a.organization_name) == secret
            ]
            if not accounts:
                return refuse(self.not_an_admin(request, secret))
            try:
                return handler(request, accounts)
            except Refused as refused:
                return refuse(refused.reply)

        return answer

    def not_an_admin(self, request: web.Request, secret: str) -> ErrorReply:
        if secret not in self.directory.by_secret:
            return errors.invalid_api_key(secret)
        reads = request.path.startswith((ADMIN + "/usage", ADMIN + "/costs"))
        scope = "api.usage.read" if reads else "api.management.read"
        message = (
            f"You have insufficient permissions for this operation. Missing scopes: {scope}. Check that you have the "
            "correct role in your organization, and if you're using a restricted API key, that it has the necessary "
            "scopes."
        )
        return ErrorReply(403, message, code="missing_scope")

    # ---- the organisation

    def projects(self, request: web.Request, accounts: list[Account]) -> web.Response:
        documents = [
            {
                "id": account.project,
                "object": "organization.project",
                "name": account.config.id,
                "created_at": MODEL_CREATED,
                "archived_at": None,
                "status": "active",
            }
            for account in accounts
        ]
        return page_of(request, documents)

    def rate_limits(self, request: web.Request, accounts: list[Account]) -> web.Response:
        config = project_in(request, accounts).config
        models = [*MODELS, *(model for model in config.models if model not in MODELS and not model.endswith("*"))]
        return page_of(request, [rate_limit(model, config.limits_of(model)) for model in models])

    def api_keys(self, request: web.Request, accounts: list[Account]) -> web.Response:
        account = project_in(request, accounts)
        return page_of(request, [self.api_key(key) for key in self.directory.keys if key.account is account])

    def api_key(self, key: Key) -> dict[str, Any]:
        facts = self.key_facts.get(key.index, KeyFacts())
        owner = {"id": "svc_acct_sim", "name": "pool", "role": "member", "created_at": MODEL_CREATED}
        return {
            "object": "organization.project.api_key",
            "id": key_id(key.index),
            "redacted_value": f"{key.secret[:10]}...{key.secret[-4:]}",
            "name": facts.name or f"key {key.index}",
            "created_at": MODEL_CREATED,
            "last_used_at": self.directory.sales.last_used.get(key.index),
            "expires_at": facts.expires_at,
            "owner_project_access": "active",
            "owner": {"type": "service_account", "service_account": owner},
        }

    def project_spend_limit(self, request: web.Request, accounts: list[Account]) -> web.Response:
        account = project_in(request, accounts)
        cents = self.billing.of(account).project_limit_cents
        return self.spend_limit("project", cents, [account])

    def organization_spend_limit(self, _request: web.Request, accounts: list[Account]) -> web.Response:
        limits = [self.billing.of(account).organization_limit_cents for account in accounts]
        return self.spend_limit("organization", next((cents for cents in limits if cents is not None), None), accounts)

    def spend_limit(self, scope: str, cents: int | None, accounts: list[Account]) -> web.Response:
        if cents is None:
            return refuse(ErrorReply(404, f"No spend limit is configured for this {scope}."))
        month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        spent = sum(self.directory.sales.total(account.config.id, int(month.timestamp())) for account in accounts)
        return reply(
            {
                "object": f"{scope}.spend_limit",
                "threshold_amount": cents,
                "currency": "USD",
                "interval": "month",
                "enforcement": {"status": "enforcing" if spent * 100 >= cents * PICODOLLARS else "inactive"},
            }
        )

    # ---- costs and usage

    def costs(self, request: web.Request, accounts: list[Account]) -> web.Response:
        def result(sold: Sequence[SaleTotals]) -> dict[str, Any]:
            amount = sum(one.amount for one in sold) / PICODOLLARS
            return {
                "object": "organization.costs.result",
                "amount": {"value": amount, "currency": "usd"},
                "line_item": None,
            }

        return self.buckets(request, accounts, "costs", ("project_id", "api_key_id"), lambda _sale: True, result)

    def usage(self, request: web.Request, accounts: list[Account]) -> web.Response:
        name = request.match_info["kind"]
        kinds = USAGE.get(name, frozenset())

        def result(sold: Sequence[SaleTotals]) -> dict[str, Any]:
            counted = {
                "object": f"organization.usage.{name}.result",
                "input_tokens": sum(one.prompt for one in sold),
                "num_model_requests": sum(one.requests for one in sold),
            }
            if name == "completions":
                counted["output_tokens"] = sum(one.completion for one in sold)
                counted["input_cached_tokens"] = sum(one.cached for one in sold)
            return counted

        groups = ("project_id", "api_key_id", "model", "service_tier")
        return self.buckets(request, accounts, "usage", groups, lambda sale: sale.kind in kinds, result)

    def buckets(
        self,
        request: web.Request,
        accounts: list[Account],
        what: str,
        groups: tuple[str, ...],
        wanted: Callable[[SaleKey], bool],
        result: Callable[[Sequence[SaleTotals]], dict[str, Any]],
    ) -> web.Response:
        """Days from `start_time` to `end_time`, at most `limit` on a page; `page` is where the next one begins."""
        by = request.query.getall("group_by[]", request.query.getall("group_by", []))
        unknown = [name for name in by if name not in groups]
        if unknown:
            raise Refused(ErrorReply(400, f"Unsupported group_by: '{unknown[0]}'.", param="group_by"))
        width = request.query.get("bucket_width", "1d")
        if width != "1d":
            raise Refused(ErrorReply(400, f"Unsupported bucket_width: '{width}'.", param="bucket_width"))
        start = whole(request, "start_time", None, 0, 2**40) // DAY_S * DAY_S
        end = whole(request, "end_time", int(time.time()) + 1, 0, 2**40)
        limit = whole(request, "limit", 7, 1, MOST_DAYS[what])
        page = request.query.get("page", "")
        start = int(page.removeprefix("page_")) if page else start
        days = list(range(start, end, DAY_S))[:limit]
        names = frozenset(account.config.id for account in accounts)
        data = []
        for day in days:
            grouped: dict[tuple[str | None, ...], list[SaleTotals]] = {}
            for sale, sold in self.directory.sales.sold(day, day + DAY_S, names):
                if wanted(sale):
                    label = tuple(self.label(sale, name) if name in by else None for name in groups)
                    grouped.setdefault(label, []).append(sold)
            results = [{**result(sold), **dict(zip(groups, label, strict=True))} for label, sold in grouped.items()]
            data.append({"object": "bucket", "start_time": day, "end_time": day + DAY_S, "results": results})
        following = days[-1] + DAY_S if days else end
        has_more = following < end
        next_page = f"page_{following}" if has_more else None
        return reply({"object": "page", "data": data, "has_more": has_more, "next_page": next_page})

    def label(self, sale: SaleKey, group: str) -> str:
        project = self.directory.accounts[sale.account].project
        return {"project_id": project, "api_key_id": key_id(sale.key), "model": sale.model}.get(group, sale.tier)

    # ---- control

    async def set_facts(self, request: web.Request) -> web.Response:
        key = self.directory.find(request.match_info["key"])
        if key is None:
            raise web.HTTPNotFound
        self.key_facts[key.index] = msgspec.json.decode(await request.read(), type=KeyFacts)
        return reply(self.api_key(key))


class Refused(Exception):
    """Answered with `reply`."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


def key_id(index: int) -> str:
    return f"key_sim{index:04d}"


def project_in(request: web.Request, accounts: Iterable[Account]) -> Account:
    wanted = request.match_info["project"]
    found = next((account for account in accounts if account.project == wanted), None)
    if found is None:
        raise Refused(ErrorReply(404, f"The project {wanted} was not found"))
    return found


def rate_limit(model: str, limits: Limits) -> dict[str, Any]:
    """Only what is limited: the simulator knows unlimited accounts, OpenAI does not."""
    values = {
        "max_requests_per_1_minute": limits.rpm,
        "max_tokens_per_1_minute": limits.tpm,
        "max_requests_per_1_day": limits.rpd,
        "batch_1_day_max_input_tokens": None if limits.tpm is None else limits.tpm * BATCH_DAYS_OF_TPM,
    }
    shown = {name: value for name, value in values.items() if value is not None}
    return {"object": "project.rate_limit", "id": f"rl-{model}", "model": model, **shown}


def page_of(request: web.Request, documents: Sequence[Mapping[str, Any]]) -> web.Response:
    limit = whole(request, "limit", 20, 1, MOST_OBJECTS)
    after = request.query.get("after")
    ids = [document["id"] for document in documents]
    start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
    data = documents[start : start + limit]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    has_more = start + limit < len(documents)
    return reply({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def whole(request: web.Request, name: str, default: int | None, least: int, most: int) -> int:
    """A number of the query. Raises Refused."""
    text = request.query.get(name)
    if text is None:
        if default is None:
            raise Refused(errors.missing_parameter(name))
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise Refused(ErrorReply(400, f"Invalid '{name}': expected a number from {least} to {most}.", param=name))
    return int(text)
