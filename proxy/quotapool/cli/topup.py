"""`quotapool keys topup`: counts credit that was bought, and tries at once what was quarantined for lack of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from quotapool.cli.access import record, run_with_keys
from quotapool.cli.errors import fail
from quotapool.operators import accounts
from quotapool.operators.accounts import InvalidTopUp, UnknownAccount, day_of
from quotapool.operators.keys import KeyOperations
from quotapool.settings import Settings


def run(
    settings: Settings,
    account: Annotated[str, typer.Argument(help="The account (of a key without one: the key's id).")],
    usd: Annotated[float, typer.Argument(help="Dollars of credit that were bought.")],
    *,
    expires: Annotated[
        str | None, typer.Option(help="The first day (UTC) on which it is gone.", show_default="never")
    ] = None,
    granted: Annotated[
        str | None, typer.Option(help="The first day (UTC) on which it counts.", show_default="today")
    ] = None,
) -> int:
    """Record credit that was bought, and try the account again at once."""
    try:
        granted_on = day_of(granted) or datetime.now(UTC).date()
        expires_on = day_of(expires)
    except InvalidTopUp as error:
        return fail(str(error))
    if expires_on is not None and expires_on <= granted_on:
        return fail("--expires must be later than --granted")

    async def command(keys: KeyOperations) -> int:
        try:
            done = await accounts.topup(keys.overview, account, usd, granted_on, expires_on)
        except (InvalidTopUp, UnknownAccount) as error:
            return fail(str(error))
        days = {"granted_on": [None, str(granted_on)], "expires_on": [None, expires and str(expires_on)]}
        changes = {"usd": [None, usd], **days}
        await record(keys.settings, keys.overview.ledger.store, "top_up_account", f"a/{account}", changes)
        until = f", until {expires_on}" if expires_on else ""
        print(f"account {account}: ${usd:,.2f} more{until}; ${done.left:,.2f} of credit left")
        if done.woken:
            print("it was out for lack of money, and is tried again now")
        return 0

    return run_with_keys(settings, command)
