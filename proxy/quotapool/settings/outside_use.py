"""Whether use of accounts that the pool's books do not explain is looked for, and what is done about it."""

from __future__ import annotations

from quotapool.settings.values import Name, PositiveDuration, Section


class OutsideUse(Section):
    """`accounts_shared`: accounts that others are known to use, of which nothing is said. `drain`: the keys of an
    account get no new requests once outside use of it has been named for `drain_after` (seconds), if another account
    can serve; an operator makes them active again."""

    enabled: bool = True
    accounts_shared: tuple[Name, ...] = ()
    drain: bool = False
    drain_after: PositiveDuration = 600.0
