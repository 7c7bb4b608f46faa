"""Where `quotapool healthcheck` asks: without pydantic and a configuration, since it runs every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from quotapool.app import running_proxies
from quotapool.app.command_socket import STATE_DIR, NotAllowed, Silent, ask

_DEFAULT: Final = "127.0.0.1:9090"


def operators_address(env: Mapping[str, str]) -> str:
    """That of the proxy that runs on QUOTAPOOL_STATE_DIR, else of the service's or this user's only one; else the
    default, where a hanging proxy will not answer."""
    if named := env.get(STATE_DIR, "").strip():
        return _told_by(Path(named)) or _DEFAULT
    if told := _told_by(running_proxies.SERVICE):
        return told
    others = running_proxies.state_dirs()
    return (_told_by(others[0]) if len(others) == 1 else "") or _DEFAULT


def _told_by(state_dir: Path) -> str:
    try:
        answer = ask(state_dir, with_settings=False, patience_s=1.0)
    except (NotAllowed, Silent):
        return ""
    return answer.head.admin_listen if answer is not None else ""
