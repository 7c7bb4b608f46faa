"""`quotapool keys topup`: credit was bought, so count it, and try at once what rested for lack of it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

from quotapool.cli.key_access import fail, run_at_desk
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.settings.errors import nearest

MOST_USD = 1e9  # beyond, somebody mistyped


def run(settings: Settings, account: str, usd: float, *, granted: str | None, expires: str | None) -> int:
    """Record `usd` dollars of credit for `account`. Exit code 2: no such account, or no such amount or day."""
    try:
        granted_on = date.fromisoformat(granted) if granted else datetime.now(UTC).date()
        expires_on = date.fromisoformat(expires) if expires else None
    except ValueError:
        return fail("a day is written YYYY-MM-DD, such as 2027-01-31")
    if not math.isfinite(usd) or not 0 < usd <= MOST_USD:
        return fail("the amount must be more than 0 dollars")
    if expires_on is not None and expires_on <= granted_on:
        return fail("--expires must be later than --granted")

    async def command(desk: KeyOperations) -> int:
        overview = desk.overview
        if account not in overview.roster.pool.accounts:
            return fail(_unknown(overview, account))
        treasurer = overview.treasurer
        await treasurer.topup(account, usd, granted_on, expires_on, datetime.now(UTC))
        roused = await overview.ledger.registry.try_now(State.QUARANTINED, subjects_of(overview, account))
        seen = (await treasurer.assess(datetime.now(UTC))).wallets[account]
        left = 0 if seen.remaining is None else seen.remaining
        until = f", until {expires_on}" if expires_on else ""
        print(f"account {account}: ${usd:,.2f} more{until}; ${left / PICO:,.2f} of credit left")
        if roused:
            print("it rested for lack of money, and is tried again now")
        return 0

    return run_at_desk(settings, command)


def subjects_of(overview: Overview, account: str) -> list[Subject]:
    """The state records that this account's credit decides on: its own, its keys', its organisation's."""
    known = overview.roster.pool.accounts[account]
    fields = [Subject.of_account(account), *(Subject.of_key(key.id) for key in known.keys)]
    return [*fields, Subject.of_organization(known.organization)] if known.organization else fields


def _unknown(overview: Overview, account: str) -> str:
    accounts = overview.roster.pool.accounts
    if key := overview.roster.pool.keys.get(account):
        return f"{account!r} is a key; its account is {key.account!r}"
    hint = nearest(account, accounts)
    return f"no account {account!r} in the pool" + (f"; did you mean {hint!r}?" if hint else "")
