"""`quotapool dashboard`: a link to the operators' page that logs in once, for whoever may read the pool's store."""

from __future__ import annotations

import os
import sys
import urllib.request
import webbrowser

from quotapool.cli.access import command_actor, record, run_with_store
from quotapool.cli.errors import fail, warn
from quotapool.cli.running import is_running
from quotapool.login.links import VALID_S, Links
from quotapool.settings import Address, Settings
from quotapool.store.store import Store


def run(settings: Settings, *, is_opened: bool) -> int:
    """Print the link, and open it where there is a browser. Exit code 2 if there is no page to log in to."""
    if not settings.dashboard.enabled:
        return fail("dashboard.enabled is false, so there is no page")
    if settings.redis is None and not is_running(settings.state_dir):
        return fail(f"the proxy is not running on {settings.state_dir}: `quotapool serve` starts it")
    here = _here(settings.admin_listen)
    if not _answers(here):
        warn(f"nothing answers at {here}: is the proxy of this configuration running?")

    async def command(store: Store) -> int:
        actor = command_actor()
        code = await Links(store, settings.pool).new(actor.name)
        await record(settings, store, "login_link", "", {"valid_s": [None, VALID_S]})
        # In the fragment: a browser sends it to no server, so it is in no log on the way.
        url = f"{settings.dashboard.url or here}/#code={code}"
        print(url)
        warn(f"this link logs {actor.name} in once, within {VALID_S} s")
        if is_opened and _has_browser():
            webbrowser.open(url)
        return 0

    return run_with_store(settings, command)


def _here(address: Address) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{Address(everywhere.get(address.host, address.host), address.port)}"


def _answers(here: str) -> bool:
    try:
        with urllib.request.urlopen(f"{here}/healthz", timeout=3):  # noqa: S310 - always http
            return True
    except OSError:
        return False


def _has_browser() -> bool:
    """Without a screen, a browser of text would take the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
