"""The simulated OpenAI's request path: authentication, faults, admission, answer."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from quotapool.simulator import errors, faults, media, objects, realtime, replies, responses
from quotapool.simulator.accounts import Account, Directory, Key
from quotapool.simulator.admission import Admission
from quotapool.simulator.answers import Usage, compose, usage_of
from quotapool.simulator.billing import Billing, bearer_of
from quotapool.simulator.config import SimulatorConfig
from quotapool.simulator.control import Control
from quotapool.simulator.delivery import Interruption, cut_body, sever, stream_frames
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.faults import BEFORE_ADMISSION, Hit, Kind
from quotapool.simulator.headers import identity_headers, rate_limit_headers
from quotapool.simulator.log import RequestLog
from quotapool.simulator.objects import AccountObjects, ObjectReply
from quotapool.simulator.organisation import Administration
from quotapool.simulator.parsed_request import (
    EMBEDDINGS,
    MODERATIONS,
    RESPONSES,
    SHAPES,
    ParsedRequest,
    model_group,
    parse_request,
)
from quotapool.simulator.replies import Turn, pretty

LARGEST_BODY: Final = 600 * 1024**2  # OpenAI takes files of 512 MB
NO_SUCH_MODEL: Final = "no-such-"
# A client that leaves cancels its handler, so that a cut is noticed at once. OpenAI accepts 64 KiB of headers.
RUNNER_OPTIONS: Final[dict[str, Any]] = {
    "handler_cancellation": True,
    "max_field_size": 65_536,
    "max_line_size": 65_536,
    "shutdown_timeout": 0.5,
    "access_log": None,
}


@dataclass(slots=True)
class Call:
    """One request being handled. `limits` are its rate-limit headers, after admission."""

    request: web.Request
    body: bytes
    key: Key
    id: str
    began: float
    limits: dict[str, str]

    def headers(self, more: dict[str, str]) -> dict[str, str]:
        processing_ms = round((time.monotonic() - self.began) * 1000)
        return {**identity_headers(self.id, self.key.account.organization, processing_ms), **self.limits, **more}

    def reply(self, body: bytes, kind: str = "application/json", status: int = 200) -> web.Response:
        return web.Response(body=body, status=status, headers=self.headers({"Content-Type": kind}))

    def refuse(self, error: ErrorReply) -> web.Response:
        return web.Response(status=error.status, body=error.body(), headers=self.headers(error.headers()))


class Simulator:
    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.directory = Directory(config.accounts)
        self.log = RequestLog(self.directory)
        self.instance = secrets.token_hex(6)  # so that no two simulators use the same id
        self.serial = itertools.count(1)
        self.objects: dict[str, AccountObjects] = {}

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{self.instance}{next(self.serial):012x}"

    def objects_of(self, account: Account) -> AccountObjects:
        return self.objects.setdefault(
            account.config.id, AccountObjects(self.new_id, account.config.id, account.project)
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every path under /v1: authenticate, then `serve`."""
        began = time.monotonic()
        body = await request.read()
        self.log.record(request.method, request.raw_path, request.headers, body)
        secret = bearer_of(request) or realtime.secret_in(request)
        key = self.directory.by_secret.get(secret)
        request_id = self.new_id("req_")
        if key is None:
            self.directory.unknown_keys += 1
            error = errors.invalid_api_key(secret) if secret else errors.NO_API_KEY
            headers = {**identity_headers(request_id, None, 0), **error.headers()}
            return web.Response(status=error.status, body=error.body(), headers=headers)
        for tally in key.tallies:
            tally.attempts += 1
        return await self.serve(Call(request, body, key, request_id, began, {}))

    async def serve(self, call: Call) -> web.StreamResponse:
        """Faults before admission and the caller's own mistakes first, then admission, then the answer."""
        if realtime.asks_for_session(call.request):
            return await realtime.serve_session(self, call)
        method, path, key = call.request.method, call.request.path, call.key
        shape = SHAPES.get(path) if method == "POST" else None
        parsed = None
        if shape is not None:
            parsed = parse_request(shape, call.body, self.config.default_output_tokens, key.account.config.prompts)
        object_request = None
        if shape is None:
            content_type = call.request.headers.get("Content-Type", "")
            object_request = objects.read(method, call.request.raw_path, content_type, call.body)
        model = parsed.model if isinstance(parsed, ParsedRequest) else named_model(object_request)

        fault_hit = key.fault_for(method, model)
        if fault_hit is not None and fault_hit[0].kind in BEFORE_ADMISSION:
            return call.refuse(self.apply_fault(call, fault_hit, model))
        mismatch = mismatched_header(call)
        if mismatch is not None:
            return call.refuse(mismatch)
        if isinstance(parsed, ErrorReply):
            return call.refuse(parsed)
        named = path.removeprefix("/v1/models/") if path.startswith("/v1/models/") else model
        if named.startswith(NO_SUCH_MODEL):
            return call.refuse(errors.unknown_model(named))

        stored = self.stored(call, parsed, object_request)
        if isinstance(stored, ErrorReply):
            return call.refuse(stored)

        admission = self.admit(call, parsed, model)
        if isinstance(admission, ErrorReply):
            return call.refuse(admission)
        if stored is not None:
            await asyncio.sleep(self.config.latency_ms / 1000)
            admission.complete(Usage(0, 0), time.monotonic())
            return call.reply(stored.body, stored.type, stored.status)
        try:
            return await self.answer(call, admission, parsed, fault_hit, model)
        finally:
            admission.fail(time.monotonic())  # no effect if it was completed

    def stored(
        self, call: Call, parsed: ParsedRequest | None, object_request: objects.Request | None
    ) -> ObjectReply | ErrorReply | None:
        """The answer about the account's stored objects, or about sound and pictures; None if it is about neither."""
        owned = self.objects_of(call.key.account)
        if parsed is not None:
            return owned.refusal(parsed)
        if object_request is None:
            return None
        return media.serve(object_request) or owned.serve(object_request)

    def apply_fault(self, call: Call, hit: Hit, model: str) -> ErrorReply:
        """Count a fault that hits, and return its answer."""
        hit.scheduled.count_hit()
        for tally in call.key.tallies:
            tally.count_fault(hit.fault, time.time())
        return faults.reply_to(hit.fault, call.key.secret, model, call.key.account.project)

    def admit(self, call: Call, parsed: ParsedRequest | None, model: str) -> Admission | ErrorReply:
        """Charge the estimate. A request that names no model is not limited."""
        account, now = call.key.account, time.monotonic()
        budget = account.budget(model, now) if model else None
        estimate = 0 if parsed is None else parsed.estimate
        if budget is not None:
            refusal = budget.admit(estimate, now)
            call.limits = rate_limit_headers(budget.gauges(now))
            if refusal is not None:
                for tally in call.key.tallies:
                    tally.count_refusal(refusal.dimension.name if refusal.wait_s is not None else "too_large")
                return errors.rate_limited(refusal, model, model_group(model), account.organization)
        for tally in call.key.tallies:
            tally.admitted += 1
            tally.charged_tokens += estimate

        def record_sale(usage: Usage) -> None:
            if parsed is not None:
                sale = (account.config.id, call.key.index, parsed.shape.name, parsed.model, parsed.service_tier)
                self.directory.sales.record(*sale, usage, time.time())

        return Admission(call.key, budget, estimate, self.config.charging == "correct", record_sale)

    async def answer(
        self,
        call: Call,
        admission: Admission,
        parsed: ParsedRequest | None,
        fault_hit: Hit | None,
        model: str,
    ) -> web.StreamResponse:
        """The answer of an admitted request, with the fault that hits it, if any."""
        failing, interruption, failure = "", None, None
        latency_s = self.config.latency_ms / 1000
        if fault_hit is not None:
            fault, scheduled, slot = fault_hit
            failing = fault.name
            error = self.apply_fault(call, fault_hit, model)
            if fault.kind is Kind.SERVICE and failing != "stream_error":
                await asyncio.sleep(latency_s)
                return call.refuse(error)
            if failing == "reset":
                return sever(call.request)
            if failing == "hang":
                await asyncio.Event().wait()
            if failing == "slow":
                latency_s += scheduled.latency_ms / 1000
            if failing == "stream_error":
                failure = faults.stream_failure(scheduled.code)
            elif failing == "reset_mid_stream":
                interruption = Interruption(scheduled.events)
            elif failing == "hold":
                interruption = Interruption(scheduled.events, partial(slot.ended, scheduled))

        outcome = failing if fault_hit is not None and fault_hit.fault.kind is Kind.MODEL else ""
        turn = None if parsed is None else self.compose(parsed, outcome, call.key.account.config.id)
        if turn is not None and objects.is_stored(turn.parsed):
            self.objects_of(call.key.account).store(turn, msgspec.json.decode(body_of(call, turn)))
        usage = Usage(0, 0) if turn is None else turn.usage
        streams = turn is not None and turn.parsed.streams
        speed = self.config.tokens_per_second
        thinking_s = 0.0 if streams or speed is None else usage.completion / speed
        try:
            await asyncio.sleep(latency_s + thinking_s)
            if interruption is not None and interruption.released is not None and not streams:
                await interruption.released()
        except asyncio.CancelledError:
            admission.cut(usage, 0, "client", time.monotonic())  # the client has left, but the prompt was read
            raise
        if turn is not None and streams:
            headers = call.headers({"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"})
            response = web.StreamResponse(headers=headers)
            frames_of = responses.response_frames if turn.parsed.shape is RESPONSES else replies.completion_frames
            frames = frames_of(turn, failure)
            await stream_frames(
                call.request, response, frames, admission, usage, speed, interruption, failed=failure is not None
            )
            return response
        if turn is not None and failure is not None:
            if turn.parsed.shape is RESPONSES:
                return call.reply(pretty(responses.failed(turn, failure)))
            return call.refuse(errors.SERVER_ERROR)
        body = body_of(call, turn)
        if interruption is not None and interruption.released is None:
            admission.cut(usage, usage.completion, "fault", time.monotonic())
            return await cut_body(call.request, body, call.headers({"Content-Type": "application/json"}))
        admission.complete(usage, time.monotonic())
        return call.reply(body)

    def compose(self, parsed: ParsedRequest, outcome: str = "", account: str = "") -> Turn:
        """`outcome`: as `answers.compose`. `account`: whose encrypted reasoning it is."""
        prefixes = {"responses": "resp_", "completions": "cmpl-", "moderations": "modr-"}
        turn_id = self.new_id(prefixes.get(parsed.shape.name, "chatcmpl-"))
        digest = parsed.prompt.digest
        if self.config.answers == "by_call":
            digest = zlib.crc32(turn_id.encode(), digest)
        length = self.config.completion_tokens
        answers = compose(parsed, length, digest, outcome) if parsed.shape.generates else ()
        usage = Usage(0, 0) if parsed.shape is MODERATIONS else usage_of(parsed, answers)
        return Turn(turn_id, int(time.time()), parsed, answers, usage, account)


def named_model(object_request: objects.Request | None) -> str:
    """The model that a body of JSON or a form names, or ""."""
    if object_request is None or object_request.method != "POST":
        return ""
    model = object_request.fields.get("model")
    return model if isinstance(model, str) else ""


def mismatched_header(call: Call) -> ErrorReply | None:
    """OpenAI refuses an organisation or project header that does not match the key."""
    account = call.key.account
    for name, own in (("organization", account.organization), ("project", account.project)):
        if call.request.headers.get(f"OpenAI-{name}", own) != own:
            return errors.mismatched(name)
    return None


def body_of(call: Call, turn: Turn | None) -> bytes:
    """The JSON answer: by endpoint, or an echo for a path that is not simulated."""
    method, path = call.request.method, call.request.path
    if turn is None:
        if method == "GET" and path == "/v1/models":
            return pretty({"object": "list", "data": [replies.model_document(model) for model in replies.MODELS]})
        if method == "GET" and path.startswith("/v1/models/"):
            return pretty(replies.model_document(path.removeprefix("/v1/models/")))
        return pretty({"object": "simulated", "method": method, "path": path, "request_bytes": len(call.body)})
    if turn.parsed.shape is RESPONSES:
        return pretty(responses.finished(turn))
    if turn.parsed.shape is EMBEDDINGS:
        return replies.embeddings_body(turn)
    if turn.parsed.shape is MODERATIONS:
        return replies.moderations_body(turn)
    return replies.completion_body(turn)


def build_app(config: SimulatorConfig) -> web.Application:
    """The simulator as an application; give its runner `RUNNER_OPTIONS`."""
    simulator = Simulator(config)
    app = web.Application(client_max_size=LARGEST_BODY)
    billing = Billing(simulator.directory, simulator.log)
    billing.add_routes(app.router)
    Administration(simulator.directory, simulator.log, billing).add_routes(app.router)
    app.router.add_route("*", "/v1/{path:.*}", simulator.handle)
    Control(simulator.directory, simulator.log).add_routes(app.router)
    return app


async def run(
    config: SimulatorConfig, host: str = "127.0.0.1", port: int = 0, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until cancelled. `ready` is called with the URL once connections are accepted.

    Raises OSError when the port is in use.
    """
    runner = web.AppRunner(build_app(config), **RUNNER_OPTIONS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        if ready is not None:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{runner.addresses[0][1]}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
