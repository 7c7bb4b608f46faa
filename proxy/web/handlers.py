"""The clients' listener: hands each request to the pipeline, and turns refusals and accidents into OpenAI's shape."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Protocol

import structlog
from aiohttp import web

from proxy.domain.trip import Trip
from proxy.openai import replies
from proxy.pipeline import Pipeline
from proxy.refusal import Refusal
from proxy.web.downstream import AiohttpDownstream

_log = structlog.get_logger()


class EndObserver(Protocol):
    """Who wants to know that a request came and ended."""

    def began(self) -> None: ...

    def ended(self, trip: Trip) -> None: ...


class ClientHandler:
    """aiohttp's low-level handler. `draining`: each connection is closed with its next answer."""

    def __init__(self, pipeline: Pipeline, observer: EndObserver) -> None:
        self._pipeline = pipeline
        self._observer = observer
        self._prefix = f"qp-{secrets.token_hex(4)}-"
        self._serial = 0
        self.draining = False
        self.ended_at = 0.0  # when the last request ended, on the monotonic clock
        self._open: set[AiohttpDownstream] = set()

    @property
    def open(self) -> int:
        """Requests not yet answered to the end."""
        return len(self._open)

    def drain(self) -> None:
        """From now on each answer that begins says that its connection closes with it."""
        self.draining = True
        for down in self._open:
            if not down.started:
                down.keep_alive = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self._serial += 1
        trip = Trip(f"{self._prefix}{self._serial:x}", time.monotonic(), request.method)
        down = AiohttpDownstream(request, trip.id)
        if self.draining:
            down.keep_alive = False
        self._open.add(down)
        self._observer.began()
        try:
            await self._pipeline.serve(down, trip)
        except Refusal as refusal:
            await self._refuse(down, trip, refusal)
        except asyncio.CancelledError:
            trip.cut, trip.status = True, trip.status or 499
            raise
        except ConnectionError:  # the client left; to raise it would make aiohttp log a traceback and answer 500
            trip.cut, trip.status = True, trip.status or 499
            down.cut()
        except Exception:  # noqa: BLE001 - the last stand: a bug must not become a broken connection
            _log.exception("request failed", request_id=trip.id)
            if down.started:
                down.cut()
            else:
                await self._refuse(down, trip, Refusal(replies.INTERNAL_ERROR))
        finally:
            self._open.discard(down)
            self.ended_at = time.monotonic()
            trip.ended, trip.first_byte = time.monotonic(), down.started_at
            self._observer.ended(trip)
        return down.written()

    @staticmethod
    async def _refuse(down: AiohttpDownstream, trip: Trip, refusal: Refusal) -> None:
        if down.malformed:  # whatever became of it upstream, the cause was the client's broken upload
            refusal = Refusal(replies.INVALID_HTTP)
        trip.status, trip.code, trip.source = refusal.status, refusal.error.code, "proxy"
        if down.started:
            trip.cut = True
            down.cut()
            return
        body = refusal.body()
        await down.start(refusal.status, "", refusal.headers(), len(body))
        await down.write(body)
        await down.finish()
