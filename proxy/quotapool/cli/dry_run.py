"""`quotapool explain --dry-run`: what would happen to a request now, without sending it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from quotapool.cli import tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.errors import fail
from quotapool.operators.keys import KeyOperations
from quotapool.reports.dry_run import DryRuns
from quotapool.settings import Settings
from quotapool.shapes.work import Candidate, DryRun, DryRunAnswer

_MOST_BYTES: Final = 2**20
_WORDS: Final = {"served_now": "It would be served now", "waits": "It would wait", "refused": "It would be refused"}
_SHOWN: Final = 10


def run(settings: Settings, file: str, *, endpoint: str, client: str | None, as_json: bool) -> int:
    """`file`: has the request's body; `-`: standard input. Exit code 0 if it would be served, 1 if it would not."""
    try:
        raw = sys.stdin.buffer.read(_MOST_BYTES + 1) if file == "-" else Path(file).read_bytes()
        body = msgspec.json.decode(raw)
    except OSError as error:
        return fail(f"{file}: {error.strerror}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return fail(f"{file}: is not valid JSON")
    if not isinstance(body, dict) or len(raw) > _MOST_BYTES:
        return fail(f"{file}: must be a JSON object of at most 1 MiB")

    async def command(keys: KeyOperations) -> int:
        found = await DryRuns(keys.overview, keys.overview.ledger.store).answer(DryRun(body, endpoint, client))
        if as_json:
            tables.print_json(found)
        else:
            print("\n".join("".join(filter(str.isprintable, line)) for line in lines(found)))
        return 1 if found.verdict == "refused" else 0

    return run_with_keys(settings, command)


def lines(found: DryRunAnswer) -> list[str]:
    """For people."""
    told = [f"{_WORDS[found.verdict]}. {found.cause}"]
    if found.model:
        group = f" (limits of {found.group})" if found.group != found.model else ""
        told.append(f"Model: {found.model}{group}")
    if found.reserve:
        amounts = ", ".join(f"{amount:,.0f} {name}" for name, amount in found.reserve.items() if amount)
        usd = "" if found.usd_at_most is None else f"; costs at most ${found.usd_at_most:,.6f}"
        told.append(f"It would reserve: {amounts or 'nothing'}{usd}")
    if found.cache is not None and found.cache.cause != found.cause:
        told.append(found.cache.cause)
    told += [f"Rule: {rule}" for rule in found.rules]
    if found.candidates:
        told.append("Accounts, in the order in which they would be asked:")
        told += [f"  {_shown(one)}" for one in found.candidates[:_SHOWN]]
    if found.out:
        told.append(f"Not asked: {found.out_count:,} accounts")
        told += [f"  {_shown(one)}" for one in found.out[:_SHOWN]]
    return told


def _shown(one: Candidate) -> str:
    room = ", ".join(f"{name} {left:,.0f}" for name, left in one.room.items())
    wait = f" (in {one.wait_s:,.1f} s)" if one.wait_s else ""
    return f"{one.account}: {one.why_not or 'has room'}{wait}" + (f"; left: {room}" if room else "")
