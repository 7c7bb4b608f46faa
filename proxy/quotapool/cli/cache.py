"""`quotapool cache`: what the cache keeps, did and saved; and deleting what it keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from quotapool.admin.cache_handlers import cleared
from quotapool.cli import tables
from quotapool.cli.access import record, with_store
from quotapool.cli.errors import fail
from quotapool.cli.options import JsonOption
from quotapool.operators.cache import CacheOperations
from quotapool.settings import Settings
from quotapool.shapes.cache import CacheQuery, CacheShare, CacheState, CacheSums
from quotapool.store.store import Store

app = typer.Typer()
_LONGEST: Final = 200  # characters of a name, as in the admin API
_HEADS: Final = ("hits", "coalesced", "misses", "bypassed", "calls saved", "tokens saved", "saved")

Client = Annotated[
    str | None, typer.Option(help="Only what is kept of this client; anonymous: without a key.", show_default=False)
]
Model = Annotated[str | None, typer.Option(help="Only answers of this model.", show_default=False)]


@app.command("stats")
@with_store
async def stats(settings: Settings, store: Store, *, json: JsonOption = False) -> int:
    """Show what the cache keeps, how often it served, and what that saved: today and this month."""
    state = await CacheOperations(lambda: settings, store).state(datetime.now(UTC))
    if json:
        tables.print_json(state)
    else:
        _show(state)
    return 0


@app.command("clear")
@with_store
async def clear(settings: Settings, store: Store, *, client: Client = None, model: Model = None) -> int:
    """Delete kept answers: all, or those of a client or a model. Their next requests are made upstream again."""
    for option, value in (("--client", client), ("--model", model)):
        if value is not None and not 0 < len(value) <= _LONGEST:
            return fail(f"{option} must have 1 to {_LONGEST} characters")
    entries = await CacheOperations(lambda: settings, store).clear(client, model)
    await record(settings, store, "clear_cache", "", cleared(CacheQuery(client, model), entries))
    print(f"{entries:,} {'entry' if entries == 1 else 'entries'} deleted")
    return 0


def _show(state: CacheState) -> None:
    console = tables.console()
    if state.patterns:
        console.print(f"kept: answers of {', '.join(state.patterns)}")
    else:
        console.print("off: cache.models names no model, so nothing is kept or served")
    share, noun = state.bytes / state.max_bytes, "entry" if state.entries == 1 else "entries"
    console.print(
        f"{state.entries:,} {noun}, {_size(state.bytes)} of {_size(state.max_bytes)} ({share:.0%}); so far "
        f"{state.expired:,} left because their time was over, {state.evicted:,} to make room"
    )
    use = tables.table("", *_HEADS, right=_HEADS)
    for name, sums in (("today", state.today), ("month", state.month)):
        use.add_row(name, *_cells(sums))
    console.print(use)
    if state.saved:
        heads = ("calls saved", "tokens saved", "saved")
        saved = tables.table("client", "model", *heads, right=heads)
        for row in state.saved:
            tokens = row.prompt_tokens + row.completion_tokens
            saved.add_row(row.client, row.model, f"{row.saved_requests:,}", f"{tokens:,}", _usd(row.usd, row.unpriced))
        console.print(saved)
    for title, shares in (("client", state.clients), ("model", state.models)):
        if shares:
            console.print(_shares(title, shares))
    if state.month.unpriced:
        console.print("+: of some of them no price is known")


def _cells(sums: CacheSums) -> list[str]:
    tokens = sums.prompt_tokens + sums.completion_tokens
    counts = (sums.hit, sums.coalesced, sums.miss, sums.bypass, sums.saved_requests, tokens)
    return [*(f"{count:,}" for count in counts), _usd(sums.usd, sums.unpriced)]


def _shares(title: str, shares: list[CacheShare]) -> object:
    table = tables.table(title, "entries kept", "size", right=("entries kept", "size"))
    for one in shares:
        table.add_row(one.name, f"{one.entries:,}", _size(one.bytes))
    return table


def _usd(usd: float, unpriced: int) -> str:
    return f"${usd:,.2f}{'+' if unpriced else ''}"


def _size(size: int) -> str:
    """`640.0 KiB`, `1.5 MiB`."""
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
