"""The generic webhook: JSON over HTTP, signed with HMAC-SHA256 so that the receiver knows who sent it, and when."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from quotapool import __version__
from quotapool.alerts.message import Message

SIGNATURE: Final = "x-quotapool-signature"
DELIVERY: Final = "x-quotapool-delivery"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, connect=5.0)
_RETRYABLE: Final = frozenset({408, 409, 425, 429})


class NotDelivered(Exception):
    """A target did not take a message. The text names no URL; `final`: trying again would not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def signature(secret: str, at: int, body: bytes) -> str:
    """`t=<Unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`: a receiver refuses old ones, and thereby replays."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """One http(s) URL that takes our own JSON."""

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)
    clock: Callable[[], float] = field(default=time.time, kw_only=True)
    timeout: aiohttp.ClientTimeout = field(default=_TIMEOUT, kw_only=True)

    @property
    def host(self) -> str:
        """Where it is."""
        return urlsplit(self.url).hostname or ""

    async def deliver(self, message: Message) -> None:
        """Raises NotDelivered. A redirect counts as a refusal: only this receiver may get the body."""
        body = message.json()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"quotapool/{__version__}",
            DELIVERY: message.id,
        }
        if self.secret:
            headers[SIGNATURE] = signature(self.secret, int(self.clock()), body)
        try:
            async with (
                aiohttp.ClientSession(timeout=self.timeout) as session,
                session.post(
                    self.url, data=body, headers=headers, allow_redirects=False, ssl=self.tls or True
                ) as answer,
            ):
                status = answer.status
        except TimeoutError:
            raise NotDelivered("no answer in time") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise NotDelivered("the URL is not valid", final=True) from None
        except (aiohttp.ClientError, OSError) as error:
            # Its text names the URL, which may hold a token.
            raise NotDelivered(f"no connection ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise NotDelivered(f"answered {status}", final=status < 500 and status not in _RETRYABLE)
