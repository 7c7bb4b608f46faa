"""How a command reaches the store, and what it leaves behind in the process that calls it."""

from __future__ import annotations

import structlog
from quotapool.cli.access import run_with_store
from quotapool.settings import Settings


def test_a_command_logs_errors_only_and_leaves_the_log_of_its_caller_as_it_was(valkey_url):
    log = structlog.get_logger()

    async def command(_):
        log.warning("in the command")
        log.error("broken")
        return 3

    with structlog.testing.capture_logs() as lines:
        assert run_with_store(Settings(redis=valkey_url), command) == 3
        log.info("afterwards")
    assert [line["event"] for line in lines] == ["broken", "afterwards"]
