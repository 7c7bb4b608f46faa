"""Accounts: how they stand, and credit that was bought for them; the command line and the admin API both call it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from quotapool.domain.pool import Account
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO, Wallet
from quotapool.money.credit_report import credit_row
from quotapool.openai.advice import advice
from quotapool.operators.big_answers import in_turns, ordered
from quotapool.operators.keys import natural_order
from quotapool.operators.overview import Overview
from quotapool.settings.errors import nearest
from quotapool.shapes.general import Grant
from quotapool.shapes.work import AccountRow

MAX_USD: Final = 1e9  # more is a typing error
_AT_ONCE: Final = 100


class UnknownAccount(Exception):
    """No such account; the text is for people."""


class InvalidTopUp(Exception):
    """The amount or a day cannot be meant; the text says why."""


@dataclass(frozen=True, slots=True)
class ToppedUp:
    """`left`: USD of credit that the account has now; `woken`: whether it was out for lack of money, and is tried."""

    left: float
    woken: bool


async def account_rows(overview: Overview, only: str | None = None) -> list[AccountRow]:
    """All accounts that have keys, by name; `only`: this one. Raises StoreUnavailable, UnknownAccount."""
    await overview.sync.refresh()
    pool = overview.roster.pool
    if only is not None and only not in pool.accounts:
        raise UnknownAccount(unknown(overview, only))
    wallets = (await overview.credit.assess(datetime.now(UTC))).wallets
    recorded = await overview.credit.topups.all()
    accounts = [pool.accounts[only]] if only is not None else list(pool.accounts.values())
    rows = []
    async for account in in_turns(accounts, _AT_ONCE):
        grants = [_shown(one.amount, one.granted_on, one.expires_on) for one in recorded.get(account.id, ())]
        rows.append(_row(overview, account, wallets.get(account.id), grants))
    return await ordered(rows, lambda row: natural_order(row.id))


def _row(overview: Overview, account: Account, wallet: Wallet | None, recorded: list[Grant]) -> AccountRow:
    written = overview.settings.accounts.get(account.id)
    grants = [] if written is None else [_granted(one.usd, one.granted_on, one.expires_on) for one in written.grants]
    record = _record_of(overview, account)
    state, reason, until = (State.ACTIVE, "", 0.0) if record is None else (record.state, record.reason, record.until)
    return AccountRow(
        id=account.id,
        organization=account.organization or None,
        tier=None if written is None else written.tier,
        keys=len(account.keys),
        usable=len(account.usable),
        state=state.value,
        reason=reason,
        next="" if record is None else advice(reason, state=state.value, until=until),
        credit={} if wallet is None else _credit(overview, account.id, wallet),
        grants=[*grants, *recorded],
    )


def _credit(overview: Overview, account: str, wallet: Wallet) -> dict[str, Any]:
    error_days = overview.credit.error_days(account, wallet, datetime.now(UTC).date())
    return credit_row(wallet) | ({} if error_days is None else {"error_days": error_days})


def _record_of(overview: Overview, account: Account) -> Record | None:
    """The firmest of its own and its organisation's."""
    records = overview.roster.pool.records
    own = records.get(Subject.of_account(account.id))
    if own is not None and own.fingerprint not in {"", account.fingerprint}:
        own = None  # seen with other secrets than the present ones
    above = records.get(Subject.of_organization(account.organization)) if account.organization else None
    held = [record for record in (above, own) if record is not None]
    return max(held, key=lambda record: record.firmness) if held else None


def _shown(pico: int, granted_on: date | None, expires_on: date | None) -> Grant:
    return _granted(pico / PICO, granted_on, expires_on)


def _granted(usd: float, granted_on: date | None, expires_on: date | None) -> Grant:
    given = {"granted_on": granted_on, "expires_on": expires_on}
    return Grant(usd, **{name: day.isoformat() for name, day in given.items() if day is not None})


async def topup(
    overview: Overview, account: str, usd: float, granted_on: date | None, expires_on: date | None
) -> ToppedUp:
    """Record credit that was bought, and try at once what was quarantined for lack of it. `granted_on`: None: today
    (UTC). Raises UnknownAccount, InvalidTopUp, StoreError."""
    now = datetime.now(UTC)
    first = granted_on or now.date()
    if not math.isfinite(usd) or not 0 < usd <= MAX_USD:
        raise InvalidTopUp("the amount must be more than 0 dollars")
    if expires_on is not None and expires_on <= first:
        raise InvalidTopUp("it must expire later than it is granted")
    if account not in overview.roster.pool.accounts:
        raise UnknownAccount(unknown(overview, account))
    await overview.credit.topup(account, usd, first, expires_on, now)
    woken = await overview.ledger.registry.try_now(State.QUARANTINED, subjects_of(overview, account))
    wallet = (await overview.credit.assess(datetime.now(UTC))).wallets[account]
    return ToppedUp(0.0 if wallet.remaining is None else wallet.remaining / PICO, bool(woken))


def subjects_of(overview: Overview, account: str) -> list[Subject]:
    """The subjects whose state depends on this account's credit: itself, its keys, its organisation."""
    known = overview.roster.pool.accounts[account]
    subjects = [Subject.of_account(account), *(Subject.of_key(key.id) for key in known.keys)]
    return [*subjects, Subject.of_organization(known.organization)] if known.organization else subjects


def unknown(overview: Overview, account: str) -> str:
    """Why there is no such account, and what was probably meant."""
    accounts = overview.roster.pool.accounts
    if key := overview.roster.pool.keys.get(account):
        return f"{account!r} is a key; its account is {key.account!r}"
    hint = nearest(account, accounts)
    return f"no account {account!r} in the pool" + (f"; did you mean {hint!r}?" if hint else "")


def day_of(text: str | None) -> date | None:
    """Raises InvalidTopUp for a text that is no day."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidTopUp("a day is written YYYY-MM-DD, such as 2027-01-31") from None
