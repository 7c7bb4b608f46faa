"""One attempt of a request: send it with one key, relay a good answer, hold a bad one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Final

from quotapool.domain.quantities import Certainty, Details, Usage
from quotapool.domain.request_record import RequestRecord
from quotapool.ledger.grants import Granted
from quotapool.openai import replies
from quotapool.openai.classify import classify_stream_error
from quotapool.openai.head import Header
from quotapool.openai.headers import headers_for_client, headers_for_upstream
from quotapool.openai.sse import StreamRelay
from quotapool.openai.usage import answering_model
from quotapool.pool.configuration import Snapshot
from quotapool.pool.want import Want
from quotapool.request.attempt import MOST_ERROR_BODY, Attempt, AttemptParts, held_event, observed_in
from quotapool.request.client_request import ClientRequest
from quotapool.request.one_account import reserve_at
from quotapool.request.outcome import Passed
from quotapool.request.passing_forms import watched
from quotapool.request.read import LONGEST_MODEL, cost_of, facts_of_form
from quotapool.request.relay import Downstream, pass_bytes, pass_json, pass_stream
from quotapool.traces.joining import onward
from quotapool.upstream.interface import Answer, UpstreamFailure, read_body

_TOO_LONG: Final = "upstream took longer than timeouts.total"


class HttpAttempt(Attempt):
    __slots__ = ("_answer", "_down", "_stream", "_want")

    def __init__(
        self,
        parts: AttemptParts,
        now: Snapshot,
        request: ClientRequest,
        want: Want,
        down: Downstream,
        granted: Granted,
        record: RequestRecord,
    ) -> None:
        super().__init__(parts, now, request, granted, record)
        self._want = want
        self._down = down
        self._answer: Answer | None = None
        self._stream: StreamRelay | None = None  # an answer that is being relayed as events

    def _exchange(self) -> Awaitable[None]:
        total_s = self.now.settings.timeouts.total
        return self._ask() if total_s is None else self._ask_within(total_s)

    async def _ask_within(self, total_s: float) -> None:
        try:
            async with asyncio.timeout(total_s):
                await self._ask()
        except TimeoutError:
            raise UpstreamFailure("timeout", _TOO_LONG, sent=True) from None

    async def _ask(self) -> None:
        answer = self._answer = await self._send()
        record, outcome = self.record, self.outcome
        record.status, outcome.observed = answer.status, observed_in(answer.headers)
        if outcome.observed and self.request.streamed and answer.status < 400:
            self.parts.ledger.observe(self.granted, outcome.observed)  # when a stream ends, its headers are old
            outcome.observed = None
        if "openai-organization" in answer.headers.first:
            self.parts.sync.learn_organization(record.account, answer.headers["openai-organization"])
        headers = headers_for_client(answer.headers, secret=self.secret)
        headers += self.parts.rates.lines(self.request.group, self.granted.charge)
        request_id = answer.headers.get("x-request-id", "")
        record.upstream_request_id = "" if self.secret in request_id else request_id
        if answer.status < 400:
            self.request.end_retry(self.parts.slots)
            await self._relay(answer, headers)
        else:
            self._refused(answer, headers, await read_body(answer, MOST_ERROR_BODY))

    def _send(self) -> Awaitable[Answer]:
        now, request, down = self.now, self.request, self._down
        reader = request.placement.reader if request.placement is not None else None
        readable = request.endpoint.readable or (reader is not None and reader.shows_others)
        headers = headers_for_upstream(down.headers, now.credentials.header(self.record.key), readable=readable)
        to_send = request.to_send
        if request.boundary and request.stream is not None:
            to_send = watched(request.stream, request.boundary, self._name_model)
        trace = self.request_record.trace
        if trace is not None and trace.goes_on:
            headers = onward(headers, trace, len(self.request_record.attempts) - 1)
        if request.length is not None:
            headers.append((b"Content-Length", request.length))
        route = now.credentials.route(self.record.key)
        if route is None:
            return now.upstream.send(down.method, down.target, headers, to_send)
        body = to_send if request.body is None else route.body(request.body, request.model) or None
        return now.upstream_of(route).send(down.method, route.target(down.target), headers, body)

    async def _name_model(self, fields: Mapping[str, str]) -> None:
        """The form has named its model: from now on it is a request to that model, and takes its budget at the account
        that has the form. Raises Refusal (429, 503)."""
        request, parts = self.request, self.parts
        model, request.streamed, count = facts_of_form(fields)
        known = parts.sync.roster.pool.keys.get(self.record.key)
        if not model or known is None:
            return
        group, cost = cost_of(request.endpoint, model, count, parts.sync.roster)
        request.model = self.request_record.model = model
        self.request_record.streamed = request.streamed
        granted = await reserve_at(
            parts.ledger,
            group,
            cost,
            lambda: parts.sync.roster.candidate(known, group),
            request_id=self.request_record.id,
            patience_s=request.patience_s,
            stops=lambda: parts.admission.draining,
        )
        if self.granted.settled:  # upstream did not wait for the form's end
            parts.ledger.give_back(granted)
            return
        granted.charge, self.granted.charge = self.granted.charge, None  # its client's rules are charged once
        parts.ledger.give_back(self.granted)
        parts.rates.observe(granted)
        request.group, request.cost, self.granted = group, cost, granted

    async def _relay(self, answer: Answer, headers: list[Header]) -> None:
        """Pass a good answer on. A stream that begins with an error becomes a held error instead."""
        request, request_record, outcome, down = self.request, self.request_record, self.outcome, self._down
        answer.reason = self.reason_of(answer)
        headers.append((b"x-quotapool-source", b"upstream"))
        passed, echo = Passed(), self.echo
        request_record.status, request_record.source = answer.status, "upstream"
        content_type = answer.headers.get("content-type", "")
        is_json = content_type.startswith("application/json")
        is_events = content_type.startswith("text/event-stream")
        if is_events:  # else nginx and its like collect them before they pass them on
            headers = [
                *(pair for pair in headers if pair[0].lower() != b"x-accel-buffering"),
                (b"x-accel-buffering", b"no"),
            ]
        reader = request.placement.reader if request.placement is not None else None
        if reader is not None:
            reader.account = self.record.account
            if "location" in answer.headers.first:
                reader.located(answer.headers["location"])
        try:
            if is_events and request.endpoint.dialect is not None:
                stream = self._stream = StreamRelay(request.endpoint.dialect, request.strip_usage)
                bound = self.parts.charging.bound(
                    self.granted.charge, request_record.client, request, self.parts.ledger.now
                )
                self.parts.observer.stream_opened(1)
                try:
                    await pass_stream(down, answer, headers, stream, self._hold_s(), passed, echo, reader, bound)
                finally:
                    self.parts.observer.stream_opened(-1)
                if bound is not None and bound.used_up is not None:
                    request_record.code = replies.CLIENT_BUDGET_EXHAUSTED.code
                    request_record.rules, request_record.cut = (bound.used_up.rule.id,), True
            elif request.endpoint.estimate is not None or (request.endpoint.reports_usage and is_json):
                await pass_json(down, answer, headers, passed, echo, reader)
            elif reader is not None and (is_json or reader.shows_others):
                await pass_json(down, answer, headers, passed, echo, reader, counts=False)
            else:
                await pass_bytes(down, answer, headers, passed, echo)
                if request.characters and passed.complete:
                    passed.usage = Usage(Certainty.EXACT, details=Details(characters=request.characters))
        finally:
            self._learn_from(passed)
        if passed.error is not None:
            outcome.verdict = classify_stream_error(self.parts.clean(passed.error))
            outcome.held = held_event(outcome.verdict, headers)
            return
        outcome.delivered = True
        self.parts.observer.served(request_record.model)

    def _learn_from(self, passed: Passed) -> None:
        """However the answer ended."""
        record, outcome = self.request_record, self.outcome
        outcome.usage = passed.usage
        if record.trace is not None:
            said = passed.final if self._stream is None else self._stream.reporting
            self.record.model = answering_model(said)[:LONGEST_MODEL]
        if self.request.leaves_the_model:
            record.model = answering_model(passed.final)[:LONGEST_MODEL] or record.model
        if passed.late_error is not None:  # scored even if the client leaves on seeing it
            outcome.verdict = classify_stream_error(self.parts.clean(passed.late_error))

    def _hold_s(self) -> float:
        """How long the beginning of a stream may be held: not at all if no other account could take the request."""
        want, pool = self._want, self.parts.sync.roster.pool
        if self.request.body is None or not pool.has_other(self.record.account, want.exclude, want.only):
            return 0.0
        return self.now.settings.stream_hold

    def _fail(self, failure: UpstreamFailure) -> None:
        super()._fail(failure)
        if self._down.started:  # past the point of no return: show the cut
            self.outcome.delivered = self.request_record.cut = True
            self._down.cut()

    def _leave(self) -> None:
        answer, stream = self._answer, self._stream
        left = self.record.outcome == "cancelled"
        if left and answer is not None and stream is not None and self.now.settings.finish_cut_streams:
            stream.feed(self.echo.finish())
            self.parts.reading_on.start(answer, stream, self._end)
        else:
            self._end()

    def _end(self) -> None:
        if self._answer is not None:
            self._answer.close()
        if self._stream is not None:
            self.outcome.usage = self._stream.usage
        super()._end()
