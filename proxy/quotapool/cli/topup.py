"""`quotapool keys topup`: counts credit that was bought, and tries at once what was quarantined for lack of it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from quotapool.cli.access import record, run_with_keys
from quotapool.cli.errors import fail
from quotapool.domain.states import State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO
from quotapool.operators.keys import KeyOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings
from quotapool.settings.errors import nearest

MAX_USD = 1e9  # more is a typing error


def run(
    settings: Settings,
    account: Annotated[str, typer.Argument(help="The account (of a key without one: the key's id).")],
    usd: Annotated[float, typer.Argument(help="Dollars of credit that were bought.")],
    *,
    expires: Annotated[str | None, typer.Option(help="First day (UTC) it is gone.", show_default="never")] = None,
    granted: Annotated[str | None, typer.Option(help="First day (UTC) it counts.", show_default="today")] = None,
) -> int:
    """Record credit that was bought, and try the account again at once."""
    try:
        granted_on = date.fromisoformat(granted) if granted else datetime.now(UTC).date()
        expires_on = date.fromisoformat(expires) if expires else None
    except ValueError:
        return fail("a day is written YYYY-MM-DD, such as 2027-01-31")
    if not math.isfinite(usd) or not 0 < usd <= MAX_USD:
        return fail("the amount must be more than 0 dollars")
    if expires_on is not None and expires_on <= granted_on:
        return fail("--expires must be later than --granted")

    async def command(keys: KeyOperations) -> int:
        overview = keys.overview
        if account not in overview.roster.pool.accounts:
            return fail(_unknown(overview, account))
        credit = overview.credit
        await credit.topup(account, usd, granted_on, expires_on, datetime.now(UTC))
        woken = await overview.ledger.registry.try_now(State.QUARANTINED, subjects_of(overview, account))
        days = {"granted_on": [None, str(granted_on)], "expires_on": [None, expires and str(expires_on)]}
        changes = {"usd": [None, usd], **days}
        await record(keys.settings, overview.ledger.store, "topup_account", f"a/{account}", changes)
        wallet = (await credit.assess(datetime.now(UTC))).wallets[account]
        left = 0 if wallet.remaining is None else wallet.remaining
        until = f", until {expires_on}" if expires_on else ""
        print(f"account {account}: ${usd:,.2f} more{until}; ${left / PICO:,.2f} of credit left")
        if woken:
            print("it was out for lack of money, and is tried again now")
        return 0

    return run_with_keys(settings, command)


def subjects_of(overview: Overview, account: str) -> list[Subject]:
    """The subjects whose state depends on this account's credit: itself, its keys, its organisation."""
    known = overview.roster.pool.accounts[account]
    subjects = [Subject.of_account(account), *(Subject.of_key(key.id) for key in known.keys)]
    return [*subjects, Subject.of_organization(known.organization)] if known.organization else subjects


def _unknown(overview: Overview, account: str) -> str:
    accounts = overview.roster.pool.accounts
    if key := overview.roster.pool.keys.get(account):
        return f"{account!r} is a key; its account is {key.account!r}"
    hint = nearest(account, accounts)
    return f"no account {account!r} in the pool" + (f"; did you mean {hint!r}?" if hint else "")
