"""A scenario: the pool that demand is replayed against. Today's, or one that was changed by what is here. Pure.

Each change takes a scenario and returns another. Names that the pool does not have raise ValueError with a message for
whoever wrote them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, tzinfo
from typing import Final

import msgspec
from msgspec.structs import replace

from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Dimension, Limits
from quotapool.domain.rules import Rule

OTHERS: Final = ""
"""In `PlanAccount.limits`: of model groups that are not named."""
NO_MODEL: Final = "-"
"""The group of requests that name no model: they use no limits."""
MOST_LIMIT: Final = 1e12
"""Of requests, tokens or images in a minute or a day: beyond what anybody has."""
_MOST_WEIGHT: Final = 1e6
_LONGEST_WAIT_S: Final = 31 * 86_400.0
_FAR_LESS: Final = 0.5


class Outage(msgspec.Struct, frozen=True):
    """From `since` until `until` (Unix seconds) the account serves nothing."""

    account: str
    since: float
    until: float = math.inf


class PlanAccount(msgspec.Struct, frozen=True):
    """An account and its usable keys. `limits`: those in force by model group, `OTHERS` for the rest; what is None has
    no limit. `burst_s`: how many seconds of a minute's limit may come at once.

    `corrects`: by model group, whether upstream charges what was used in the end instead of the estimate, as far as the
    function of that name knows it. `closed_to`: models that it has no access to.
    """

    id: str
    limits: Mapping[str, Limits] = {}
    keys: tuple[str, ...] = ()
    weight: float = 1.0
    burst_s: float = 60.0
    corrects: Mapping[str, bool] = {}
    closed_to: frozenset[str] = frozenset()

    def limits_of(self, group: str) -> Limits:
        found = self.limits.get(group)
        return self.limits.get(OTHERS, Limits()) if found is None else found

    def is_corrected(self, group: str) -> bool:
        """Of a group that is not known, as of most of its others; if none is known, the estimate stays charged."""
        known = self.corrects.get(group)
        return 2 * sum(self.corrects.values()) > len(self.corrects) if known is None else known


class SubjectRules(msgspec.Struct, frozen=True):
    """Limits and budgets that a client has of its own (`c/<id>`), or shares with its team (`t/<id>`). `zone`: in which
    the budgets' days turn. `used`: of budgets, by id, before the first request of the replay, in the period it is in.
    """

    subject: str
    rules: tuple[Rule, ...]
    zone: tzinfo = UTC
    used: Mapping[str, float] = {}


class PlanClient(msgspec.Struct, frozen=True):
    """`max_wait_s` None: the pool's."""

    weight: float = 1.0
    max_wait_s: float | None = None
    rules: tuple[SubjectRules, ...] = ()


class Traffic(msgspec.Struct, frozen=True):
    """`factor` times as many requests of this client and model; "": of all."""

    factor: float
    client: str = ""
    model: str = ""


class Scenario(msgspec.Struct, frozen=True):
    """A pool, its clients and how it queues. `priorities`: of clients for which another one than recorded is asked.

    `out`: names of keys and accounts that the pool has, and that cannot serve. `processes`: workers of all replicas,
    each with queues of its own. `daily_limit_pico`: what the pool may cost a day of `zone`; None: no limit;
    `spent_pico`: of it before the replay's first request. `seed`: of every choice at random.
    """

    accounts: tuple[PlanAccount, ...]
    clients: Mapping[str, PlanClient] = {}
    priorities: Mapping[str, int] = {}
    max_wait_s: float = 30.0
    max_wait_for_all: bool = False  # instead of what clients or requests say
    max_waiting: int = 1000
    batch_leaves: float = 0.1
    processes: int = 1
    daily_limit_pico: int | None = None
    spent_pico: int = 0
    zone: tzinfo = UTC
    traffic: tuple[Traffic, ...] = ()
    outages: tuple[Outage, ...] = ()
    out: frozenset[str] = frozenset()
    seed: int = 1

    def account(self, name: str) -> PlanAccount:
        """Raises ValueError."""
        for account in self.accounts:
            if account.id == name:
                return account
        raise self.no_such("account", name, (account.id for account in self.accounts))

    def client(self, name: str) -> PlanClient:
        return self.clients.get(name, PlanClient())

    def no_such(self, what: str, name: str, known: Iterable[str]) -> ValueError:
        if name in self.out:
            return ValueError(f"{name!r} cannot serve, so it is out already")
        return ValueError(f"there is no {what} {name!r}{did_you_mean(name, known)}")


def corrects(bucket: Bucket) -> bool | None:
    """How upstream charges this account for this model group, by what its answers have taught the bucket: the
    prediction that had to be moved far less is the true one, if the bucket leans to it too. None: that is not known.

    The lean alone fades as both predictions come together. Where the limit had been a guess, the first answer moved
    both by the difference; that tells nothing and is taken off.
    """
    tokens = DIMENSIONS.index(Dimension.TPM)
    guess = bucket.depth(tokens, Limits()) - Bucket(bucket.at).depth(tokens, Limits())
    taught = bucket.taught_kept[tokens], bucket.taught_corrected[tokens]
    less, kept, corrected = min(
        (min(abs(moved - off) for moved in taught), *(abs(moved - off) for moved in taught)) for off in (0.0, guess)
    )
    if less >= _FAR_LESS * max(kept, corrected) or (corrected < kept) != (bucket.lean < 0):
        return None
    return corrected < kept


# ---- accounts and keys


def add_accounts(
    scenario: Scenario,
    count: int,
    *,
    limits: Mapping[str, Limits] | None = None,
    like: str | None = None,
    name: str = "new",
) -> Scenario:
    """`count` more accounts with one key each, of these limits, or as an account that there is. Raises ValueError."""
    if count < 1:
        raise ValueError(f"{count} accounts cannot be added")
    if (limits is None) == (like is None):
        raise ValueError("new accounts need their limits, or an account that they are like")
    charging = _usual_charging(scenario.accounts)
    model = PlanAccount("", limits or {}, corrects=charging) if like is None else scenario.account(like)
    taken = {account.id for account in scenario.accounts}
    names = _new_names(name, count, taken)
    added = tuple(replace(model, id=new, keys=(new,)) for new in names)
    return replace(scenario, accounts=(*scenario.accounts, *added))


def without(scenario: Scenario, names: Iterable[str]) -> Scenario:
    """Without these keys or accounts. An account with another key keeps its limits. Raises ValueError."""
    accounts = {account.id: account for account in scenario.accounts}
    gone: set[str] = set()
    for name in names:
        if name in accounts:
            gone |= {name, *accounts.pop(name).keys}
            continue
        owner = next((account for account in accounts.values() if name in account.keys), None)
        if owner is None:
            known = [*accounts, *(key for account in accounts.values() for key in account.keys)]
            raise replace(scenario, out=scenario.out | gone).no_such("key or account", name, known)
        gone.add(name)
        left = tuple(key for key in owner.keys if key != name)
        if left:
            accounts[owner.id] = replace(owner, keys=left)
        else:
            gone.add(owner.id)
            del accounts[owner.id]
    return replace(scenario, accounts=tuple(accounts.values()), out=scenario.out | gone)


def with_outage(scenario: Scenario, account: str, since: float, until: float = math.inf) -> Scenario:
    """Raises ValueError."""
    if not since < until:
        raise ValueError("an outage ends after it began")
    outage = Outage(scenario.account(account).id, since, until)
    return replace(scenario, outages=(*scenario.outages, outage))


def with_limit(scenario: Scenario, account: str, group: str, dimension: Dimension, value: float) -> Scenario:
    """Another limit of an account for one model group; `OTHERS`: for each. Raises ValueError."""
    if not 0 <= value <= MOST_LIMIT:
        raise ValueError(f"a limit is a number from 0 to {MOST_LIMIT:,.0f}")
    changed = scenario.account(account)
    limits = dict(changed.limits)
    named = [group] if group != OTHERS else [OTHERS, *limits]
    for each in named:
        limits[each] = _with(changed.limits_of(each), dimension, value)
    new = replace(changed, limits=limits)
    return replace(scenario, accounts=tuple(new if a is changed else a for a in scenario.accounts))


def parse_limit(text: str, scenario: Scenario) -> tuple[str, str, Dimension]:
    """`acme.gpt-4.1.tpm` or `acme.tpm` as account, model group ("": all) and dimension. Names may have dots: the
    longest account that fits is meant. Raises ValueError."""
    before, _, last = text.rpartition(".")
    if last not in set(Dimension) or not before:
        raise ValueError(f"{text!r} is no limit: write ACCOUNT.MODEL.tpm or ACCOUNT.tpm ({', '.join(Dimension)})")
    fitting = [a.id for a in scenario.accounts if before == a.id or before.startswith(f"{a.id}.")]
    if not fitting:
        account = before.partition(".")[0]
        raise scenario.no_such("account", account, (a.id for a in scenario.accounts))
    account = max(fitting, key=len)
    return account, before[len(account) + 1 :], Dimension(last)


# ---- traffic and clients


def with_traffic(scenario: Scenario, factor: float, *, client: str = "", model: str = "") -> Scenario:
    """`factor` times as many requests; below 1: fewer. Raises ValueError."""
    if not 0 <= factor <= 1000:
        raise ValueError("traffic is multiplied by a number from 0 to 1000")
    return replace(scenario, traffic=(*scenario.traffic, Traffic(factor, client, model)))


def with_client(
    scenario: Scenario,
    client: str,
    *,
    weight: float | None = None,
    priority: int | None = None,
    max_wait_s: float | None = None,
) -> Scenario:
    """Another weight, priority (1 high, 0 normal, -1 batch) or patience of one client. Raises ValueError."""
    if weight is not None and not 1 / _MOST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise ValueError(f"a weight is above 0, from {1 / _MOST_WEIGHT:g} to {_MOST_WEIGHT:,.0f}")
    known = scenario.client(client)
    changed = replace(
        known,
        weight=known.weight if weight is None else weight,
        max_wait_s=known.max_wait_s if max_wait_s is None else max_wait_s,
    )
    priorities = dict(scenario.priorities) | ({} if priority is None else {client: priority})
    return replace(scenario, clients={**scenario.clients, client: changed}, priorities=priorities)


def with_max_wait(scenario: Scenario, seconds: float) -> Scenario:
    """Every request waits so long, whatever it or its client said. Raises ValueError."""
    if not 0 <= seconds <= _LONGEST_WAIT_S:
        raise ValueError(f"a wait is from 0 to {_LONGEST_WAIT_S / 86_400:.0f} days")
    return replace(scenario, max_wait_s=seconds, max_wait_for_all=True)


# ---- helpers


def _with(limits: Limits, dimension: Dimension, value: float) -> Limits:
    return Limits(**{d.value: value if d is dimension else limits.of(d) for d in Dimension})


def _usual_charging(accounts: Collection[PlanAccount]) -> dict[str, bool]:
    """By model group, as most accounts have it: those of one upstream are charged alike."""
    votes: Counter[str] = Counter()
    for account in accounts:
        for group, is_corrected in account.corrects.items():
            votes[group] += 1 if is_corrected else -1
    return {group: vote > 0 for group, vote in votes.items()}


def _new_names(name: str, count: int, taken: set[str]) -> list[str]:
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if (new := f"{name}-{number}") not in taken:
            names.append(new)
    return names


def did_you_mean(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
