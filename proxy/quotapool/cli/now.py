"""`quotapool now` and `quotapool room`: how the pool stands, how much room it has, what runs dry first and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from quotapool.cli import tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.errors import fail
from quotapool.cli.progress import shown_progress
from quotapool.money.credit_control import CreditStatus
from quotapool.observe.samples import SampleStore
from quotapool.operators.keys import KeyOperations
from quotapool.reports.now import NowReader
from quotapool.reports.room import account_rows
from quotapool.reports.sentence import about
from quotapool.settings import Settings
from quotapool.shapes.now import Attention, CreditRow, DryTime, Now, RoomRow, WaitingRow

_FEW_ACCOUNTS: Final = 20
_FEW_IDS: Final = 3
_FEW_CREDITS: Final = 5
_UNITS: Final = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


class AccountRoom(msgspec.Struct):
    """One account's budget for a model group. `state`: `usable` or `out`; `cooling_s`: how long it still waits."""

    account: str
    state: str
    dimension: str
    remaining: float
    limit: float
    cooling_s: float


class RoomReport(msgspec.Struct):
    """`room`: of all usable accounts together; `accounts`: one by one, the emptiest first."""

    model: str
    room: list[RoomRow]
    accounts: list[AccountRoom]


def show_now(settings: Settings, *, as_json: bool) -> int:
    """Exit code 0; 2 if the store cannot be reached."""

    async def command(keys: KeyOperations) -> int:
        with shown_progress("reading the pool"):
            now = await _reader(keys).read()
        if now.facts and now.facts[0].code == "store_away":
            return fail("the store does not answer")
        if as_json:
            tables.print_json(now)
        else:
            _print_now(now)
        return 0

    return run_with_keys(settings, command)


def show_room(settings: Settings, model: str, *, show_all: bool, as_json: bool) -> int:
    """Exit code 0; 2 if nothing is known of the model, or the store cannot be reached."""
    return run_with_keys(settings, partial(_room, model, show_all=show_all, as_json=as_json))


def _reader(keys: KeyOperations) -> NowReader:
    overview = keys.overview

    async def status() -> CreditStatus:
        return await overview.credit.assess(datetime.now(UTC))

    return NowReader(keys, SampleStore(overview.ledger.store, keys.settings.pool), status)


async def _room(model: str, keys: KeyOperations, *, show_all: bool, as_json: bool) -> int:
    overview = keys.overview
    with shown_progress("reading the pool"):
        now = await _reader(keys).read()
    group = overview.roster.group_of(model)
    pool, at = overview.roster.pool, await overview.ledger.registry.time()
    accounts: list[AccountRoom] = []
    async for name, bucket in overview.ledger.stored.of(group, list(pool.accounts)):
        if max(bucket.learned) < 0:
            continue
        configured = overview.settings.limits_for(name, group)
        bucket.refill(at, configured, burst_s=overview.settings.burst_for(name))
        state = "usable" if pool.accounts[name].usable else "out"
        cooling_s = round(max(0.0, bucket.cool_until - at), 1)
        accounts += (AccountRoom(name, state, *row, cooling_s) for row in account_rows(bucket, configured))
    if not accounts:
        return fail(f"nothing is known of {group}: no account has served it yet, or OpenAI has named no limit for it")
    accounts.sort(key=lambda row: (row.remaining / row.limit if row.limit else 0.0, row.account, row.dimension))
    report = RoomReport(group, [row for row in now.room if row.model == group], accounts)
    if as_json:
        tables.print_json(report)
        return 0
    console = tables.console()
    console.print(room_table(report.room))
    few = accounts if show_all else accounts[:_FEW_ACCOUNTS]
    table = tables.table("account", "", "left", "of", "", right=("left", "of"))
    for row in few:
        remarks = [row.state] if row.state != "usable" else []
        remarks += [f"waits {row.cooling_s:.0f} s"] if row.cooling_s else []
        table.add_row(row.account, row.dimension, number(row.remaining), number(row.limit), ", ".join(remarks))
    console.print(table)
    if len(few) < len(accounts):
        console.print(f"and {len(accounts) - len(few):,} more; --all shows them")
    return 0


# ---- in words and tables


def _print_now(now: Now) -> None:
    console = tables.console()
    line = partial(console.print, soft_wrap=not console.is_terminal)
    line(now.sentence)
    if now.attention:
        console.print(attention_table(now.attention))
    if now.room:
        console.print(room_table(now.room))
    if now.waiting:
        console.print(waiting_table(now.waiting))
    _print_credit(console, now.credit)
    limit = "" if now.daily_limit_usd is None else f" of ${now.daily_limit_usd:,.2f}"
    requests = f"{now.requests_per_minute:,.0f}"
    rates = f"{requests} request{'s' * (requests != '1')} a minute, {now.errors_per_minute:,.0f} of them refused"
    line(f"{rates}; spent today: ${now.spent_today_usd:,.2f}{limit}")


def attention_table(rows: Sequence[Attention]) -> Table:
    table = tables.table("look at", "what", "why")
    for row in rows:
        table.add_row(row.severity, concerned(row, _FEW_IDS), f"{row.code}: {row.next}")
    return table


def concerned(row: Attention, few: int) -> str:
    """`key a, b and 3 more`; there is one pool, which needs no name."""
    if row.kind == "pool":
        return "the pool"
    more = f" and {row.count - few:,} more" if row.count > few else ""
    return f"{row.kind} {', '.join(row.ids[:few])}{more}"


def room_table(rows: Sequence[RoomRow]) -> Table:
    """What runs dry first is first."""
    table = tables.table(
        *("model", "", "left", "of", "used/min", "back/min", "dry in"), right=("left", "of", "used/min", "back/min")
    )
    ordered = sorted(rows, key=lambda row: (row.dry is None, row.dry.minutes if row.dry else 0.0))
    for row in ordered:
        cells = map(number, (row.remaining, row.limit, row.used_per_minute, row.refill_per_minute))
        waits = f"; {row.cooling:,} cool down" if row.cooling else ""
        table.add_row(row.model, row.dimension, *cells, dry_in(row.dry) + waits)
    return table


def waiting_table(rows: Sequence[WaitingRow]) -> Table:
    table = tables.table("in the queue", "model", "for", "client", "longest", right=("in the queue", "longest"))
    for row in rows:
        what = f"rule {row.rule}" if row.rule else row.dimension or "room"
        table.add_row(f"{row.waiting:,}", row.model, what, row.client, tables.span(row.longest_s))
    return table


def _print_credit(console: Console, rows: Sequence[CreditRow]) -> None:
    known = [row for row in rows if row.remaining_usd is not None][:_FEW_CREDITS]
    if not known:
        return
    table = tables.table("credit", "left", "a day", "lasts until", right=("left", "a day"))
    for row in known:
        until = "" if row.empty_at is None else row.empty_at[:10]
        error = "" if row.error_days is None else f" ± {max(row.error_days, 0.1):.1f} d"
        table.add_row(row.account, f"${row.remaining_usd:,.2f}", f"${row.per_day_usd:,.2f}", until + error)
    console.print(table)


def number(value: float) -> str:
    """`950`, `12.3k`, `4.56M`: three digits, or the whole number below 10,000."""
    for size, unit in _UNITS:
        if value >= max(size, 10_000):
            shown = value / size
            return f"{shown:.{max(0, 2 - len(str(int(shown))) + 1)}f}{unit}"
    return f"{value:,.0f}"


def dry_in(dry: DryTime | None) -> str:
    """`-` (not at this pace), `now`, `6 min (4 to 9 min)`."""
    if dry is None:
        return "-"
    if not dry.minutes:
        return "now"
    until = "never" if dry.latest is None else about(dry.latest)
    return f"{about(dry.minutes)} ({about(dry.earliest)} to {until})"
