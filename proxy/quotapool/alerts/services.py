"""Chat services and e-mail, through the library `apprise`, which is imported only if such a target is configured."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from quotapool.alerts.message import Message
from quotapool.alerts.webhook import NotDelivered
from quotapool.domain.alert import Severity

_TIMEOUT_S: Final = 30.0
_LOGGER: Final = logging.getLogger("apprise")
_STATUS: Final = re.compile(r"\berror[ =:]+(\d{3})\b")
_TYPES: Final = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.INFO: "info"}
# Hosts of chat webhooks, as in the URLs that the services show: they are not our generic webhook.
_CHATS: Final = {
    "hooks.slack.com": "slack",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "open.feishu.cn": "feishu",
    "open.larksuite.com": "lark",
    "oapi.dingtalk.com": "dingtalk",
    "qyapi.weixin.qq.com": "wecom",
}


def is_webhook(url: str) -> bool:
    """Whether the URL takes our own JSON, and not that of a chat service."""
    parts = urlsplit(url)
    return parts.scheme.lower() in {"http", "https"} and parts.hostname not in _CHATS


def service_of(url: str) -> str:
    """A word for logs and metrics: webhook, slack, mailtos, ..."""
    return "webhook" if is_webhook(url) else _CHATS.get(urlsplit(url).hostname or "", urlsplit(url).scheme.lower())


def native(url: str, secret: str) -> str:
    """The URL in apprise's form. It reads most services' own URLs, but not these two."""
    parts = urlsplit(url)
    if parts.hostname == "oapi.dingtalk.com":
        token = parse_qs(parts.query).get("access_token", [""])[0]
        return f"dingtalk://{quote(secret, safe='')}@{token}/" if secret else f"dingtalk://{token}/"
    if parts.hostname == "open.feishu.cn":
        return f"feishu://{parts.path.rstrip('/').rpartition('/')[2]}/"
    return url


class Service:
    """A target that apprise supports. Raises ValueError if it does not know the URL."""

    def __init__(self, url: str, secret: str = "") -> None:
        import apprise

        _LOGGER.propagate = False  # it logs URLs
        asset = apprise.AppriseAsset(app_id="quotapool", app_desc="quotapool", app_url="", image_url_mask="")
        self._target: Any = apprise.Apprise.instantiate(native(url, secret), asset=asset, suppress_exceptions=True)
        if self._target is None:
            raise ValueError(f"{urlsplit(url).scheme}:// is not understood as it is written; see docs/alerts.md")

    @property
    def host(self) -> str:
        """Where messages go, as far as apprise tells: a mail server, or the service's own; "" if it does not."""
        mail, web = getattr(self._target, "smtp_host", None), getattr(self._target, "notify_url", None)
        return str(mail or (urlsplit(web).hostname if isinstance(web, str) else None) or "")

    async def deliver(self, message: Message) -> None:
        """Raises NotDelivered."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                problem = await asyncio.to_thread(self._notify, message)
        except TimeoutError:
            raise NotDelivered("no answer in time") from None
        if problem:
            raise NotDelivered(problem)

    def _notify(self, message: Message) -> str:
        """Deliver in a thread, since apprise blocks; "", or why it failed."""
        handler = _StatusHandler()
        _LOGGER.addHandler(handler)
        try:
            taken = self._target.notify(title=message.title, body=message.text, notify_type=_TYPES[message.severity])
        except Exception as error:  # noqa: BLE001 - a hundred services' code; none of it may end the delivery
            return f"failed ({type(error).__name__})"
        finally:
            _LOGGER.removeHandler(handler)
        if taken:
            return ""
        return f"the service answered {handler.status}" if handler.status else "the service did not take it"


class _StatusHandler(logging.Handler):
    """Keeps the HTTP status from what apprise logs in this thread, and nothing else: the log may contain tokens."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.status = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        found = _STATUS.search(record.getMessage()) if record.thread == self._thread else None
        if found:
            self.status = found[1]
