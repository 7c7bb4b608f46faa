"""Whatever secret goes in, by whatever way, and whatever goes wrong then: none comes out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes import canaries
from tests.fakes.canaries import ALL, POOL, Seen
from tests.fakes.echoing import echoing_upstream

ROOT = Path(__file__).resolve().parents[2]
UNREDACTED = {
    "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "tests/fakes/unredacted"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
}


def test_no_secret_of_the_pool_or_of_a_client_comes_out(tmp_path: Path) -> None:
    with echoing_upstream() as upstream:
        seen = canaries.drive_the_pools_secrets(tmp_path / "driven", upstream, {})
    assert seen.leaks() == set()
    assert set(seen.places) == {
        *("answers", "log", "metrics", "admin answers", "commands", "command lines", "environments", "state"),
        "temporary files",
    }
    # The failures did happen, or nothing could have come out.
    log = "".join(piece.decode() for piece in seen.places["log"])
    for sign in (
        '"status":500',
        '"status":401',
        '"status":400',
        '"outcome":"network"',
        "a worker exited",
        "removed",
        "OpenAI did not answer a question",
    ):
        assert sign in log, sign
    assert b"[redacted]" in b"".join(seen.places["answers"])


def test_no_secret_of_the_store_or_of_a_client_key_comes_out(tmp_path: Path) -> None:
    seen = canaries.drive_the_stores_secrets(tmp_path / "driven", {})
    assert seen.leaks() == set()
    answers = b"".join(seen.places["answers"])
    assert b"invalid_proxy_key" in answers
    assert b"upstream_unreachable" in answers
    assert seen.places["Redis"]


def test_with_the_redactor_switched_off_the_same_drive_finds_leaks(tmp_path: Path) -> None:
    with echoing_upstream() as upstream:
        seen = canaries.drive_the_pools_secrets(tmp_path / "driven", upstream, UNREDACTED)
    leaks = seen.leaks()
    # Upstream's echo of each key of the pool, in what the client gets and in what the proxy keeps.
    assert {name for place, name in leaks if place == "answers"} == set(POOL)
    assert {place for place, _ in leaks} >= {"answers", "state", "commands"}


@pytest.mark.parametrize("name", ALL)
def test_a_leak_is_seen_in_any_spelling(name: str) -> None:
    for spelling in canaries.spellings(ALL[name]):
        seen = Seen()
        seen.keep("somewhere", b"before" + spelling + b"after")
        assert seen.leaks() == {("somewhere", name)}
