"""What an explanation is made of: what was refused before it, and who used what at that time; read from the store."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Final

from quotapool.domain.outside import OutsideUse
from quotapool.money.rollups import MINUTE
from quotapool.money.spend_store import PROBES, SpendStore
from quotapool.observe.events import Events
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.outside_events import is_end_of_outside_use, outside_use_of
from quotapool.observe.outside_store import OutsideStore
from quotapool.observe.request_store import RequestStore
from quotapool.operators.clients import ClientOperations
from quotapool.reports.explanation import (
    Explanation,
    User,
    Window,
    alike,
    explain,
    is_short_of_room,
    waited_for_room,
)
from quotapool.settings import Settings
from quotapool.store.store import Store

_MOST_ALIKE: Final = 10_000
_MOST_USERS: Final = 5
_BOOKED_WITHIN: Final = timedelta(seconds=1)  # usage is booked up to half a second after it ended


def not_kept(settings: Settings) -> str:
    """Why a request may be unknown, in one line."""
    if not settings.requests_kept:
        return "no such request: none are kept, since requests_kept is 0"
    return (
        f"no such request is kept: the last {settings.requests_kept:,} of the pool are, for at most 7 days, "
        "and each is there half a second after its end"
    )


async def explanation_of(request: KeptRequest, settings: Settings, store: Store) -> Explanation:
    """With what was refused before it, and who used what at that time. Raises StoreLost."""
    outside = await _outside_use(request, settings, store) if waited_for_room(request) else []
    if not request.code:
        return explain(request, outside=outside)
    earlier = await RequestStore(store, settings.pool).latest(
        _MOST_ALIKE, lambda other: other.ended <= request.ended and alike(request, other)
    )
    return explain(request, earlier, await _window(request, settings, store), outside)


async def _outside_use(request: KeptRequest, settings: Settings, store: Store) -> list[OutsideUse]:
    """That of the time when the request waited: what is named now, and what has ended since."""
    found = [one for one in await OutsideStore(store, settings.pool).named() if one.since <= request.ended]
    ends = Events(store, settings.pool).since(str(int(request.ended * 1000)), is_end_of_outside_use)
    async for some in ends:
        found += (one for event in some if (one := outside_use_of(event.data)).since <= request.ended)
    return list({one.name: one for one in found}.values())


async def _window(request: KeptRequest, settings: Settings, store: Store) -> Window | None:
    """The minute of the refusal and the one before it: who used the model group, or what of a rule, most."""
    waited = request.waited_for
    if waited is None or not is_short_of_room(request):
        return None
    ended = datetime.fromtimestamp(request.ended, UTC)
    first, last = MINUTE.start(ended - MINUTE.size), MINUTE.start(ended + _BOOKED_WITHIN)
    slots = [(MINUTE, first + n * MINUTE.size) for n in range((last - first) // MINUTE.size + 1)]
    subjects = {rule.subject for rule in waited.rules}
    clients = await _clients_of(subjects, settings, store)
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    async for _, rows in SpendStore(store, settings.pool).used("client", slots):
        for (client, model), spent in rows.items():
            group = settings.group_of(model.partition(" (")[0])
            if client == PROBES or (client not in clients if subjects else group != waited.group.removesuffix(":long")):
                continue
            row = sums[client or "anonymous", model if subjects else ""]
            row[0] += spent.requests
            row[1] += spent.prompt_tokens + spent.completion_tokens
    users = [User(client, model, *numbers) for (client, model), numbers in sums.items()]
    users.sort(key=lambda user: (-user.tokens, -user.requests, user.client, user.model))
    return Window(first.timestamp(), (last + MINUTE.size).timestamp(), users[:_MOST_USERS])


async def _clients_of(subjects: set[str], settings: Settings, store: Store) -> set[str]:
    """The clients whose rules these are, with the members of teams."""
    clients = {subject[2:] for subject in subjects if subject.startswith("c/")}
    if teams := {subject[2:] for subject in subjects if subject.startswith("t/")}:
        rows = await ClientOperations(lambda: settings, store).rows()
        clients |= {row["id"] for row in rows if row.get("team") in teams}
    return clients
