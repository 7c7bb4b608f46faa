"""What the clients' server does with a request: hands it to the request path, or to the session path if it asks for a
WebSocket, and turns refusals and accidents into OpenAI's shape."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from quotapool.domain.frames import release_frames
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import RequestRecord
from quotapool.domain.trace import Trace
from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.request.path import RequestPath
from quotapool.request.relay import Downstream
from quotapool.session.path import SessionPath
from quotapool.web.aliases import OWN_PATHS, Aliases
from quotapool.web.cors import Cors, PageDownstream, is_preflight
from quotapool.web.places import Places, network_of
from quotapool.web.websocket import WebSocketRequest

_log = structlog.get_logger()
_RETRY_AFTER_S: Final = 1.0  # after a refusal because of `max_concurrent`


class ClientSide(Downstream, Protocol):
    """A request on one of our servers. `id`: ours, for the client. `fault`: what is wrong with its body, once that is
    known."""

    id: str
    keep_alive: bool
    fault: ProxyError | None
    started_at: float | None


class ClientHandler:
    """What a server does with a request. `draining`: each connection is closed with its next answer.

    `places`: for requests and sessions; one that gets none is refused before anything of it is read.
    """

    def __init__(self, path: RequestPath, observer: Observer, sessions: SessionPath | None = None) -> None:
        """`sessions`: holds WebSockets; without, a request for one is answered like any other."""
        self._path = path
        self._sessions = sessions
        self._observer = observer
        self._prefix = f"qp-{secrets.token_hex(4)}-"
        self._serial = 0
        self.cors = Cors()
        self.aliases: Aliases | None = None
        self.trace: Callable[[Head], Trace | None] | None = None  # None: there are no traces
        self.draining = False
        self.places: Places[ClientSide] = Places(self._who)
        self.ended_at = 0.0  # when the last request ended, on the monotonic clock

    @property
    def open(self) -> int:
        """Requests not yet answered to the end."""
        return len(self.places)

    @property
    def max_concurrent(self) -> int:
        """How many requests and sessions have a place at once."""
        return self.places.most

    @max_concurrent.setter
    def max_concurrent(self, most: int) -> None:
        self.places.limit(most)

    def _who(self, down: ClientSide) -> str:
        """Who holds the place of this request: the client, or the address of one without a key."""
        return self._path.client_of(down.headers) or network_of(down.address)

    def drain(self) -> None:
        """From now on each answer that begins announces that its connection closes with it."""
        self.draining = True
        for down in self.places:
            if not down.started:
                down.keep_alive = False

    async def serve(self, down: ClientSide, wanted: WebSocketRequest | None = None) -> None:
        """Answer one request, or hold the session it asks for (`wanted`). Raises nothing but CancelledError."""
        self._serial += 1
        record = RequestRecord(f"{self._prefix}{self._serial:x}", time.monotonic(), down.method)
        down.id = record.id
        if self.trace is not None:
            record.trace = self.trace(down.headers)
        if self.draining:
            down.keep_alive = False
        self._observer.began()
        if self.aliases is not None and not down.target.startswith(OWN_PATHS):
            down.target = self.aliases.real(down.target)
        origin = down.headers.get("origin")
        page: Downstream = down if origin is None else PageDownstream(down, self.cors.headers_for(origin))
        try:
            if not self.places.take(down):
                raise Refusal(replies.PROXY_OVERLOADED, retry_after_s=_RETRY_AFTER_S)  # answered below
            if wanted is not None and self._sessions is not None:
                await self._sessions.serve(wanted, record)
            elif origin is not None and is_preflight(down.method, down.headers):
                record.status, record.source = 204, "proxy"
                full = down.reply(204, "", self.cors.preflight(down.headers), None, b"")  # 403
                if full is not None:
                    await full
            else:
                await self._path.serve(page, record)
        except Refusal as refusal:
            release_frames(refusal)
            record.rules = refusal.rules
            self._path.me.note(record, refusal)
            # A broken upload: whatever became of it upstream, the client caused it.
            await self._refuse(page, record, refusal if down.fault is None else Refusal(down.fault))
        except asyncio.CancelledError:
            record.cut, record.status = True, record.status or 499
            raise
        except ConnectionError:  # the client left
            record.cut, record.status = True, record.status or 499
            down.cut()
        except Exception:  # noqa: BLE001 - the last resort: a bug must not become a broken connection
            _log.exception("request failed", request_id=record.id)
            if down.started:
                down.cut()
            else:
                await self._refuse(page, record, Refusal(replies.INTERNAL_ERROR))
        finally:
            self.places.give_back(down)
            self.ended_at = time.monotonic()
            record.ended, record.first_byte = time.monotonic(), down.started_at
            self._observer.ended(record)

    @staticmethod
    async def _refuse(down: Downstream, record: RequestRecord, refusal: Refusal) -> None:
        record.status, record.code, record.source = refusal.status, refusal.error.code, "proxy"
        record.about = refusal.about
        if down.started:
            record.cut = True
            down.cut()
            return
        body = refusal.body()
        if (full := down.reply(refusal.status, "", refusal.headers(), len(body), body)) is not None:
            await full
