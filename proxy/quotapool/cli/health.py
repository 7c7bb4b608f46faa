"""Where `quotapool healthcheck` asks: without pydantic and a configuration, since it runs every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from quotapool.app.command_socket import STATE_DIR, NotAllowed, Silent, ask

_DEFAULT: Final = "127.0.0.1:9090"


def operators_address(env: Mapping[str, str]) -> str:
    """That of the proxy that runs on QUOTAPOOL_STATE_DIR; else the default, where a hanging proxy will not answer."""
    named = env.get(STATE_DIR, "").strip()
    if not named:
        return _DEFAULT
    try:
        answer = ask(Path(named), with_settings=False, patience_s=1.0)
    except (NotAllowed, Silent):
        return _DEFAULT
    return answer.head.admin_listen or _DEFAULT if answer is not None else _DEFAULT
