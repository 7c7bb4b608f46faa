"""`quotapool plan`: what would happen to the traffic of the past if the pool were another one."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from quotapool.cli import plan_database, plan_tables, tables
from quotapool.cli.access import run_with_keys
from quotapool.cli.errors import fail, warn
from quotapool.cli.progress import OnProgress, shown_progress
from quotapool.domain.quantities import Certainty, Usage
from quotapool.migrate.database import has_password
from quotapool.migrate.found import SourceError as DatabaseError
from quotapool.money.billing import price_of
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.money.question import BadQuestionError, moment
from quotapool.money.spend_store import SpendStore
from quotapool.observe.request_store import RequestStore
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.plan.changes import BadChange, Changes, changed
from quotapool.plan.charging import MOST, charged_as_recorded
from quotapool.plan.outcome import Outcome
from quotapool.plan.read_pool import read_pool
from quotapool.plan.replay import replay
from quotapool.plan.report import report
from quotapool.plan.scenario import Scenario
from quotapool.plan.sources.files import read_file
from quotapool.plan.sources.record import MOST_COUNT, Collector, Known, Record, SourceError
from quotapool.plan.sources.ring import read_ring
from quotapool.plan.sources.rollups import read_usage, slots_of
from quotapool.plan.sources.samples import Samples
from quotapool.plan.traffic import MOST_SCALED, count_of
from quotapool.plan.used_before import with_used_before
from quotapool.settings import Settings

RING: Final = "ring"
USAGE: Final = "usage"
_USAGE_SINCE: Final = "24h"
_EVER: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Question:
    """`source`: ring, usage, a file, `-` or a database. `tokens`: that a request uses whose log has none. `most`:
    requests that are replayed, the last ones."""

    source: str
    since: str | None
    until: str | None
    changes: Changes
    tokens: int | None
    most: int
    seed: int


def run(settings: Settings, asked: Question, *, as_json: bool) -> int:
    """Exit code 0; 2 if the question has no answer, or the store cannot be reached."""

    async def command(keys: KeyOperations) -> int:
        overview = keys.overview
        await overview.sync.refresh()
        known = await _known(overview)
        with shown_progress("reading the record") as said:
            record = await _read(overview, asked, known, said)
        pool = await read_pool(overview, record.demand, seed=asked.seed)
        with shown_progress("finding out how upstream charges") as said:
            charged, why = charged_as_recorded(record, pool.scenario, progress=lambda done: said(done, 2 * MOST))
        ends_now = asked.source in {RING, USAGE} and asked.until is None
        begun, of_budgets = await with_used_before(overview, record, charged, ends_now=ends_now)
        now = datetime.now(UTC)
        zone = _zone(settings)
        planned, assumed = changed(
            begun,
            asked.changes,
            settings=overview.settings,
            usual=pool.usual,
            clients={one.client for one in record.demand},
            models={one.model for one in record.demand},
            moment=lambda text: moment("outage", text, zone, now)[0].timestamp(),
        )
        if (count := count_of(record.demand, planned.traffic)) > MOST_SCALED:
            raise BadChange(
                f"--traffic {' and '.join(asked.changes.traffic)}: that would be {count:,.0f} requests, and at most "
                f"{MOST_SCALED:,} are replayed; --most takes fewer of the record"
            )
        today = _replayed("replaying it on today's pool", record, begun)
        after = _replayed("and on the changed one", record, planned) if planned != begun else None
        found = report(record, today, after, asked.changes.words, (*pool.assumed, *why, *of_budgets, *assumed))
        if as_json:
            tables.print_json(found)
        else:
            plan_tables.show(found)
        return 0

    try:
        check(asked)
        return run_with_keys(settings, command)
    except (SourceError, DatabaseError, BadChange) as error:
        return fail(str(error))
    except BadQuestionError as error:
        return fail(f"--{error.option}: {error}")


def check(asked: Question) -> None:
    """Raises BadQuestionError."""
    if not asked.source.strip():
        raise BadQuestionError("from", f"{asked.source!r} is nothing to read: ring, usage, a file, - or a database")
    if asked.tokens is not None and asked.tokens > MOST_COUNT:
        raise BadQuestionError("tokens", f"{asked.tokens} is more than a request can use")


def _zone(settings: Settings) -> ZoneInfo:
    return ZoneInfo(settings.spend.time_zone)


def _replayed(words: str, record: Record, scenario: Scenario) -> Outcome:
    requests = len(record.demand)
    with shown_progress(words, requests) as said:
        return replay(record.demand, scenario, progress=lambda done: said(done, max(done, requests)))


async def _known(overview: Overview) -> Known:
    settings = overview.settings
    cards = await asyncio.to_thread(compile_cards, datetime.now(UTC).date(), settings.prices)
    prices = PriceList(cards)
    clients = overview.client_rules.clients

    def patience_of(client: str) -> float:
        known = clients.get(client)
        return settings.queue.max_wait if known is None or known.max_wait is None else known.max_wait

    def price(model: str, prompt: int, cached: int, completion: int) -> int | None:
        return price_of(prices, model, "", Usage(Certainty.EXACT, prompt, completion, cached))

    by_hash = {client.key_hash: name for name, client in clients.items()}
    return Known(overview.roster.group_of, patience_of, by_hash, price)


async def _read(overview: Overview, asked: Question, known: Known, said: OnProgress) -> Record:
    """Raises SourceError, BadQuestionError, StoreLost."""
    now = datetime.now(UTC)
    zone = _zone(overview.settings)
    since, until = span(asked, zone, now)
    end = until.timestamp() if asked.until is not None else float("inf")
    into = Collector(since=since.timestamp(), until=end, most=asked.most, now=now.timestamp())
    requests = RequestStore(overview.ledger.store, overview.settings.pool)
    if asked.source == RING:
        return await read_ring(requests, known, into, kept=overview.settings.requests_kept)
    if asked.source == USAGE:
        samples = await _samples(requests, known, asked, overview.settings.requests_kept)
        return await read_usage(
            SpendStore(overview.ledger.store, overview.settings.pool),
            slots_of(since, until, now),
            known,
            samples,
            into,
            most=asked.most,
            seed=asked.seed,
            progress=said,
        )
    if plan_database.is_database(asked.source):
        if has_password(asked.source):
            warn("the address is in the list of processes, where others can read its password; env:NAME keeps it out")
        return await asyncio.to_thread(
            lambda: plan_database.read(asked.source, known, into, tokens=asked.tokens, since=since, progress=said)
        )
    return await asyncio.to_thread(lambda: read_file(asked.source, known, into, tokens=asked.tokens, progress=said))


def span(asked: Question, zone: ZoneInfo, now: datetime) -> tuple[datetime, datetime]:
    """From when until when (exclusive) the record is asked for. Raises BadQuestionError."""
    since_text = asked.since or (_USAGE_SINCE if asked.source == USAGE else None)
    since = _EVER if since_text is None else moment("since", since_text, zone, now)[0]
    until = now if asked.until is None else moment("until", asked.until, zone, now)[0]
    if since >= now:
        raise BadQuestionError("since", f"{since_text!r} is in the future, of which there is no record")
    if until <= since:
        begin = f"{since:%Y-%m-%d %H:%M} UTC, where the record begins without --since"
        begin = begin if asked.since is None else f"--since {asked.since}"
        raise BadQuestionError("until", f"{asked.until!r} is not after {begin}")
    return since, until


async def _samples(requests: RequestStore, known: Known, asked: Question, kept: int) -> Samples:
    """Of all that the ring holds."""
    rng = random.Random(f"{asked.seed} samples")
    try:
        ring = await read_ring(
            requests, known, Collector(most=asked.most, now=datetime.now(UTC).timestamp()), kept=kept
        )
    except SourceError:
        return Samples((), rng)
    return Samples(ring.demand, rng)
