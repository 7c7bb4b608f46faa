"""Delivers alerts to every target in the background: in digests, with retries, without delaying the caller."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from quotapool.alerts.message import Message, compose
from quotapool.alerts.services import Service, is_webhook, service_of
from quotapool.alerts.webhook import NotDelivered, Webhook
from quotapool.domain.alert import Alert
from quotapool.settings.alerts import AlertTarget

_log = structlog.get_logger()
_DIGEST_S: Final = 3.0  # alerts within this time become one message
_MOST_QUEUED: Final = 1_000  # alerts of one target; the oldest are dropped
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 60.0
_GIVE_UP_S: Final = 900.0

Pause = Callable[[float], Awaitable[None]]


class Channel(Protocol):
    """Delivers one message."""

    @property
    def host(self) -> str:
        """Where messages go; "" if that is not known."""

    async def deliver(self, message: Message) -> None:
        """Raises NotDelivered."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to deliver alerts, and which it `wants`."""

    name: str
    channel: Channel
    wants: Callable[[Alert], bool] = lambda _alert: True


def targets_of(written: Sequence[AlertTarget], ca_file: Path | None = None) -> tuple[list[Target], list[str]]:
    """The usable targets, and a description of what is wrong with each other one. Default names are like `slack-2`."""
    found: list[Target] = []
    problems: list[str] = []
    for n, target in enumerate(written, start=1):
        url = target.url.get_secret_value()
        secret = target.secret.get_secret_value() if target.secret is not None else ""
        name = target.name or f"{service_of(url)}-{n}"
        if any(name == other.name for other in found):
            name = f"{name}-{n}"
        try:
            if is_webhook(url):
                tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
                channel: Channel = Webhook(url, secret, tls=tls)
            else:
                channel = Service(url, secret)
        except (ValueError, OSError) as error:
            problems.append(f"alerts.targets[{n - 1}] ({name}): {error}")
            continue
        found.append(Target(name, channel, target.wants))
    return found, problems


@dataclass(slots=True)
class _Queue:
    alerts: deque[Alert] = field(default_factory=lambda: deque(maxlen=_MOST_QUEUED))
    filled: asyncio.Event = field(default_factory=asyncio.Event)


class AlertDelivery:
    """One queue and one task for each target. `count(target, result)`: sent, failed or dropped, for metrics."""

    def __init__(
        self,
        pool: str,
        targets: Sequence[Target],
        *,
        clean: Callable[[str], str],
        count: Callable[[str, str], None],
        pause: Pause = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._queues = [(target, _Queue()) for target in targets]
        self._clean = clean
        self._count = count
        self._pause = pause
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(target, queue)) for target, queue in self._queues]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put(self, alert: Alert) -> None:
        """Queue an alert for every target that wants it. Returns at once. Known secrets are removed from its text."""
        alert = replace(alert, text=self._clean(alert.text))
        for target, queue in self._queues:
            if target.wants(alert):
                if len(queue.alerts) == _MOST_QUEUED:
                    self._count(target.name, "dropped")
                queue.alerts.append(alert)
                queue.filled.set()

    async def _run(self, target: Target, queue: _Queue) -> None:
        while True:
            await queue.filled.wait()
            await self._pause(_DIGEST_S)
            queue.filled.clear()
            alerts = list(queue.alerts)
            queue.alerts.clear()
            await self._deliver(target, compose(self._pool, alerts))

    async def _deliver(self, target: Target, message: Message) -> None:
        """Retry until the message is taken, refused finally, or too old. New alerts wait, and become one message."""
        started, pause = self._clock(), _FIRST_PAUSE_S
        while True:
            try:
                await target.channel.deliver(message)
            except NotDelivered as problem:
                if problem.final or self._clock() - started > _GIVE_UP_S:
                    self._count(target.name, "failed")
                    _log.warning("an alert was not delivered", target=target.name, problem=str(problem))
                    return
            else:
                self._count(target.name, "sent")
                return
            await self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
