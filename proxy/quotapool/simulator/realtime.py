"""Sessions over a WebSocket: Realtime (`/v1/realtime`), Responses (`/v1/responses`), and an echo on other paths.

Realtime events (Python SDK 3.54, `types/realtime`): session.created; session.update; conversation.item.create;
input_audio_buffer.append, commit and clear; response.create, which answers response.created, rate_limits.updated, a
delta for each token and response.done with its usage; response.cancel is ignored. A refusal is a response.done with
status `failed`. Responses: each response.create is answered with the events that a stream would have.

Beyond OpenAI, for tests: `simulator.close` {code, reason}, `simulator.vanish`, `simulator.ping`, and `simulator.flood`
{bytes}; binary messages are echoed.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import WSMsgType, web

from quotapool.simulator import errors, objects, responses
from quotapool.simulator.accounts import Key
from quotapool.simulator.admission import Admission
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.faults import BEFORE_ADMISSION
from quotapool.simulator.parsed_request import RESPONSES, ParsedRequest, parse_request

if TYPE_CHECKING:
    from quotapool.simulator.server import Call, Simulator

SUBPROTOCOL: Final = "openai-insecure-api-key."
REALTIME: Final = "realtime"
LARGEST_MESSAGE: Final = 80 * 2**20
DEFAULT_MODEL: Final = "gpt-realtime"
BYTES_PER_TOKEN: Final = 4_800  # of 24 kHz PCM16 audio: a tenth of a second
OUTPUT_RESERVED: Final = 64  # tokens, if a response names no maximum
CLOSING_GRACE_S: Final = 0.2


def asks_for_session(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def secret_in(request: web.Request) -> str:
    """The key that a browser sends as a subprotocol, or ""."""
    for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if name.strip().startswith(SUBPROTOCOL):
            return name.strip().removeprefix(SUBPROTOCOL)
    return ""


async def serve_session(host: Simulator, call: Call) -> web.StreamResponse:
    """Refuse a session with an HTTP answer, or serve it to its end."""
    request = call.request
    model = request.query.get("model", "")
    fault_hit = call.key.fault_for("POST", model)
    if fault_hit is not None and fault_hit[0].kind in BEFORE_ADMISSION:
        return call.refuse(host.apply_fault(call, fault_hit, model))
    socket = web.WebSocketResponse(
        protocols=(REALTIME,), compress=False, max_msg_size=LARGEST_MESSAGE, timeout=CLOSING_GRACE_S, autoping=True
    )
    socket.headers.update(call.headers({}))
    await socket.prepare(request)
    session = Session(host, call, call.key, socket, model or DEFAULT_MODEL)
    if request.path == "/v1/realtime":
        await session.send("session.created", session=session.document())
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await session.receive(message.data, is_realtime=request.path == "/v1/realtime")
    return socket


@dataclass(slots=True)
class Session:
    host: Simulator
    call: Call
    key: Key
    socket: web.WebSocketResponse
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    audio: int = 0  # bytes in the input buffer
    made: set[str] = field(default_factory=set)  # responses and items of this session, stored or not

    async def send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": self.host.new_id("event_"), **fields}
        await self.socket.send_str(msgspec.json.encode(event).decode())

    def document(self) -> dict[str, Any]:
        return {"id": "sess_sim", "object": "realtime.session", "type": REALTIME, "model": self.model, **self.settings}

    async def receive(self, text: str, *, is_realtime: bool) -> None:
        try:
            event = msgspec.json.decode(text)
            kind = event["type"]
        except (msgspec.DecodeError, TypeError, KeyError):
            await self.send("error", error=errors.UNPARSABLE.document()["error"])
            return
        if kind == "simulator.close":
            await self.socket.close(code=event.get("code", 1000), message=event.get("reason", "").encode())
        elif kind == "simulator.vanish" and self.call.request.transport is not None:
            self.call.request.transport.abort()
        elif kind == "simulator.ping":
            await self.socket.ping(b"are you there")
        elif kind == "simulator.flood":
            await self.socket.send_str("x" * int(event["bytes"]))
        elif is_realtime:
            await self.realtime(kind, event)
        elif kind == "response.create":
            await self.respond(event)
        else:
            await self.socket.send_str(text)

    # ---- Realtime

    async def realtime(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "session.update":
            self.settings.update(event.get("session") or {})
            await self.send("session.updated", session=self.document())
        elif kind == "conversation.item.create":
            item = {"id": self.host.new_id("item_"), **(event.get("item") or {})}
            self.items.append(item)
            await self.send("conversation.item.added", item=item, previous_item_id=None)
            await self.send("conversation.item.done", item=item, previous_item_id=None)
        elif kind == "input_audio_buffer.append":
            try:
                self.audio += len(base64.b64decode(event.get("audio", ""), validate=True))
            except (binascii.Error, TypeError):
                await self.send("error", error=errors.not_an_integer("audio").document()["error"])
        elif kind == "input_audio_buffer.clear":
            self.audio = 0
            await self.send("input_audio_buffer.cleared")
        elif kind == "input_audio_buffer.commit":
            await self.commit()
        elif kind == "response.create":
            await self.answer(event.get("response") or {})
        elif kind != "response.cancel":
            error = errors.ErrorReply(400, f"Invalid value: '{kind}'.", code="invalid_value", param="type")
            await self.send("error", error={**error.document()["error"], "event_id": event.get("event_id")})

    async def commit(self) -> None:
        """The buffer becomes an item; if the session has a transcriber, the text comes with its own usage."""
        item, tokens, self.audio = self.host.new_id("item_"), max(1, self.audio // BYTES_PER_TOKEN), 0
        self.items.append({"id": item, "role": "user", "content": [{"type": "input_text", "text": "xxxx" * tokens}]})
        await self.send("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        transcription = ((self.settings.get("audio") or {}).get("input") or {}).get("transcription")
        if transcription:
            usage = {"type": "tokens", "total_tokens": tokens + 2, "input_tokens": tokens, "output_tokens": 2}
            usage["input_token_details"] = {"text_tokens": 0, "audio_tokens": tokens}
            kind = "conversation.item.input_audio_transcription.completed"
            await self.send(kind, item_id=item, content_index=0, transcript="the pool", usage=usage)

    async def answer(self, wanted: dict[str, Any]) -> None:
        most = wanted.get("max_output_tokens") or OUTPUT_RESERVED
        body = {"model": self.model, "input": self.items, "max_output_tokens": most}
        parsed = parse_request(RESPONSES, msgspec.json.encode(body), OUTPUT_RESERVED, {})
        response_id = self.host.new_id("resp_")
        envelope: dict[str, Any] = {"object": "realtime.response", "id": response_id, "output": [], "usage": None}
        admitted = self.admit(parsed)
        if isinstance(admitted, ErrorReply):
            error = admitted
            details = {"type": "failed", "error": {"type": error.type, "code": error.code, "message": error.message}}
            await self.send("response.done", response={**envelope, "status": "failed", "status_details": details})
            return
        admission, parsed = admitted
        try:
            turn = self.host.compose(parsed)
            await self.send("response.created", response={**envelope, "status": "in_progress"})
            if admission.budget is not None:
                limits = [
                    {
                        "name": gauge.kind,
                        "limit": gauge.limit,
                        "remaining": gauge.remaining,
                        "reset_seconds": round(gauge.reset_s, 3),
                    }
                    for gauge in admission.budget.gauges(time.monotonic())
                ]
                await self.send("rate_limits.updated", rate_limits=limits)
            item_id = self.host.new_id("item_")
            here = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
            for piece in turn.answers[0].pieces:
                await self.send("response.output_text.delta", **here, delta=piece)
            text = turn.answers[0].text
            await self.send("response.output_text.done", **here, text=text)
            item: dict[str, Any] = {"id": item_id, "type": "message", "role": "assistant", "status": "completed"}
            item["content"] = [{"type": "output_text", "text": text}]
            self.items.append(item)
            used = turn.usage
            usage = {
                "total_tokens": used.total,
                "input_tokens": used.prompt,
                "output_tokens": used.completion,
                "input_token_details": {
                    "text_tokens": used.prompt,
                    "audio_tokens": 0,
                    "cached_tokens": used.cached,
                    "cached_tokens_details": {"text_tokens": used.cached, "audio_tokens": 0},
                },
                "output_token_details": {"text_tokens": used.completion, "audio_tokens": 0},
            }
            admission.complete(used, time.monotonic())
            done = {**envelope, "status": "completed", "output": [item], "usage": usage}
            await self.send("response.done", response=done)
        finally:
            admission.fail(time.monotonic())  # no effect if it was completed

    def admit(self, parsed: ParsedRequest | ErrorReply) -> tuple[Admission, ParsedRequest] | ErrorReply:
        """Admit a response, if it could be parsed; a fault that was set after the session began hits it."""
        if isinstance(parsed, ErrorReply):
            return parsed
        fault_hit = self.key.fault_for("POST", parsed.model)
        if fault_hit is not None:
            return self.host.apply_fault(self.call, fault_hit, parsed.model)
        admission = self.host.admit(self.call, parsed, parsed.model)
        return admission if isinstance(admission, ErrorReply) else (admission, parsed)

    # ---- Responses

    async def respond(self, event: dict[str, Any]) -> None:
        lane = {"stream_id": event["stream_id"]} if "stream_id" in event else {}
        body = {name: value for name, value in event.items() if name not in {"type", "stream_id"}}
        config, prompts = self.host.config, self.key.account.config.prompts
        owned = self.host.objects_of(self.key.account)
        parsed = parse_request(RESPONSES, msgspec.json.encode(body), config.default_output_tokens, prompts)
        refused = owned.refusal(parsed, self.made) if isinstance(parsed, ParsedRequest) else None
        admitted = refused or self.admit(parsed)
        if isinstance(admitted, ErrorReply):
            refusal = {"type": "error", "status": admitted.status, **admitted.document(), **lane}
            await self.socket.send_str(msgspec.json.encode(refusal).decode())
            return
        admission, parsed = admitted
        turn = self.host.compose(parsed, account=self.key.account.config.id)
        answer = responses.finished(turn)
        if objects.is_stored(parsed):
            owned.store(turn, answer)
        self.made |= {turn.id, *(item["id"] for item in answer["output"])}
        try:
            for number, (document, _) in enumerate(responses.success_events(turn, turn.answers[0])):
                sent = {"type": document["type"], "sequence_number": number, **document, **lane}
                await self.socket.send_str(msgspec.json.encode(sent).decode())
            admission.complete(turn.usage, time.monotonic())
        finally:
            admission.fail(time.monotonic())
