"""`quotapool explain`: what happened to one request, in plain words."""

from __future__ import annotations

from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.cli.errors import fail
from quotapool.domain.counted import counted
from quotapool.observe.request_store import RequestStore
from quotapool.reports.evidence import explanation_of, not_kept
from quotapool.reports.explanation import Explanation
from quotapool.reports.timeline import span
from quotapool.settings import Settings
from quotapool.store.store import Store


def run(settings: Settings, request_id: str, *, as_json: bool) -> int:
    """Print the explanation. Exit code 0; 2 if the request is unknown or the store cannot be reached."""

    async def command(store: Store) -> int:
        kept = await RequestStore(store, settings.pool).find(request_id)
        if kept is None:
            return fail(not_kept(settings))
        found = await explanation_of(kept, settings, store)
        if as_json:
            tables.print_json(found)
        else:
            print("\n".join("".join(filter(str.isprintable, line)) for line in lines(found)))
        return 0

    return run_with_store(settings, command)


def lines(found: Explanation) -> list[str]:
    """For people."""
    told = [found.summary, *([found.cache] if found.cache else [])]
    if found.since is not None:
        told.append(f"Since: {found.since}, when the first of a row of requests was refused for this")
    if found.until is not None:
        told.append(f"Until: {found.until}, as it was known then")
    if found.most_used_by:
        told.append("Most used by, in the minute of its end and the one before:")
        for user in found.most_used_by:
            model = f" with {user.model}" if user.model else ""
            told.append(f"  {user.client}{model}: {counted(user.requests, 'request')}, {counted(user.tokens, 'token')}")
    if found.remedy:
        told.append(f"Cheapest remedy: {found.remedy}")
    told += ["", "Timeline:"]
    told += [f"  {'' if step.at_ms is None else span(1000 * step.at_ms):>8}  {step.text}" for step in found.timeline]
    told.append(f"Most of the time: {found.longest}")
    return [*told, f"Trace: {found.trace_id}"] if found.trace_id else told
