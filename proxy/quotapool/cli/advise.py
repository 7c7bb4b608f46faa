"""`quotapool advise`: what clients could do to need less of the pool."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from quotapool.advice.note_store import NoteStore
from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.domain.counted import counted
from quotapool.domain.observer import Observer
from quotapool.ledger.budgets import Ledger
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.reports.advice import advice
from quotapool.settings import Settings
from quotapool.shapes.advice import AdviceRow, AdviceRows
from quotapool.store.store import Store


def run(settings: Settings, *, as_json: bool) -> int:
    """Exit code 0; 2 if the store cannot be reached."""

    async def command(store: Store) -> int:
        now = datetime.now(UTC)
        cards = await asyncio.to_thread(compile_cards, now.date(), settings.prices)
        ledger = Ledger(store, settings.pool, patience_s=3.0, observer=Observer())
        found = await advice(NoteStore(store, settings.pool), ledger.stored, settings, PriceList(cards), now)
        if as_json:
            tables.print_json(found)
        else:
            _show(found)
        return 0

    return run_with_store(settings, command)


def _show(found: AdviceRows) -> None:
    console = tables.console()
    if not found.enabled:
        console.print("requests are not noted: advice.enabled is false (docs/advice.md)")
    if not found.requests:
        console.print("no request was noted in the last seven days")
        return
    console.print(
        f"from {counted(found.requests, 'request')} in {'one day' if found.days == 1 else f'{found.days:g} days'}"
    )
    if not found.rows:
        console.print("nothing to advise")
    for row in found.rows:
        console.print()
        console.print(f"{_saving(row)} {row.advice}", soft_wrap=True)
        console.print(f"  {row.how}", style="dim", soft_wrap=True)


def _saving(row: AdviceRow) -> str:
    if row.usd_per_month:
        return f"${row.usd_per_month:,.2f} a month:"
    share, unit = (row.tpm, "TPM") if row.tpm else (row.rpm, "RPM")
    return f"{share or 0:.0%} more {unit}:"
