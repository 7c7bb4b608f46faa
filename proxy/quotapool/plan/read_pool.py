"""Today's pool as a scenario: settings, and what the store knows of limits, states and clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Dimension, Limits
from quotapool.domain.rules import Rule
from quotapool.domain.wallet import PICO
from quotapool.keys.keyring import credentials_of
from quotapool.ledger.replicas import count_alive
from quotapool.ledger.rules import CLIENT, TEAM
from quotapool.ledger.stored_rules import zone_named
from quotapool.operators.overview import Overview
from quotapool.plan.demand import Demand
from quotapool.plan.scenario import NO_MODEL, OTHERS, PlanAccount, PlanClient, Scenario, SubjectRules, corrects
from quotapool.settings import Client, Settings
from quotapool.settings.rules import RuleOptions

_MOST_NAMED: Final = 5  # accounts in one sentence
_LEANING: Final = 0.1  # of a bucket that has seen how upstream charges, and not only noise


@dataclass(frozen=True, slots=True)
class PoolRead:
    """`usual`: by model group, the limits that most accounts have; `assumed`: what had to be taken for granted."""

    scenario: Scenario
    usual: Mapping[str, Limits]
    assumed: tuple[str, ...]


async def read_pool(overview: Overview, demand: Iterable[Demand], *, seed: int) -> PoolRead:
    """The pool as it stands, for the models and clients of this demand. Raises StoreUnavailable, StoreLost."""
    await overview.sync.refresh()
    settings, roster = overview.settings, overview.roster
    groups, models = _names(demand)
    found = await _buckets(overview, groups)
    usual = {group: _usual(limits for limits, _ in of.values()) for group, of in found.items()}
    usually = {
        group: is_corrected for group, of in found.items() if (is_corrected := _usually(of.values())) is not None
    }
    closed = _closed(settings, models)
    accounts: list[PlanAccount] = []
    unseen: Counter[str] = Counter()
    out: list[str] = []
    out_names: set[str] = set()
    for account in roster.pool.accounts.values():
        out_names |= {key.id for key in account.keys} - {key.id for key in account.usable}
        if not account.usable:
            out.append(account.id)
            out_names.add(account.id)
            continue
        limits, charging = {OTHERS: settings.limits_for(account.id, OTHERS)}, dict(usually)
        for group in groups:
            known = found[group].get(account.id)
            if known is None:
                written = roster.limits_for(account.id, group)
                limits[group] = written.over(usual[group])
                unseen[group] += limits[group] != written
            else:
                limits[group] = known[0]
                if known[1] is not None:
                    charging[group] = known[1]
        accounts.append(
            PlanAccount(
                account.id,
                limits,
                tuple(key.id for key in account.usable),
                roster.pool.weight_of(account.id),
                settings.burst_for(account.id),
                charging,
                frozenset(model for model, names in closed.items() if account.id in names),
            )
        )
    daily_usd = settings.spend.daily_limit_usd
    scenario = Scenario(
        tuple(accounts),
        clients=_clients(
            overview.client_rules.clients, {**overview.client_rules.directory.teams, **settings.teams}, settings
        ),
        max_wait_s=settings.queue.max_wait,
        max_waiting=settings.queue.max_waiting,
        batch_leaves=settings.queue.batch_leaves,
        processes=await count_alive(overview.ledger.store, settings.pool) or settings.workers,
        daily_limit_pico=None if daily_usd is None else round(daily_usd * PICO),
        zone=zone_named(settings.spend.time_zone),
        out=frozenset(out_names),
        seed=seed,
    )
    return PoolRead(scenario, usual, tuple(_assumed(accounts, unseen, out)))


def _names(demand: Iterable[Demand]) -> tuple[list[str], set[str]]:
    """Model groups and models."""
    groups: dict[str, None] = {}
    models: set[str] = set()
    for one in demand:
        groups[one.group or one.model] = None
        models.add(one.model)
    return list(groups), models


_Learned = tuple[Limits, bool | None]  # limits in force; whether upstream charges what was used, None: not known


async def _buckets(overview: Overview, groups: Collection[str]) -> dict[str, dict[str, _Learned]]:
    """By model group and account, what is known where upstream has answered."""
    found: dict[str, dict[str, _Learned]] = {group: {} for group in groups}
    async for (account, group), bucket in overview.ledger.stored.each():
        of = found.get(group)
        if of is not None and max(bucket.learned) >= 0:
            of[account] = _in_force(bucket, overview.roster.limits_for(account, group)), _charging(bucket)
    return found


def _in_force(bucket: Bucket, written: Limits) -> Limits:
    """None: no limit, or none that is known."""
    values: dict[str, float] = {}
    for i, dimension in enumerate(DIMENSIONS):
        if written.of(dimension) is not None or 0 <= bucket.learned[i] < float("inf"):
            values[dimension] = bucket.limit(i, written)
    return Limits(**values)


def _charging(bucket: Bucket) -> bool | None:
    """Whether upstream charges what was used. Where the first answer named a limit that had only been guessed, it moved
    both predictions so far that their sums tell nothing; then the bucket's own leaning does."""
    known = corrects(bucket)
    return bucket.lean < 0 if known is None and abs(bucket.lean) >= _LEANING else known


def _usual(limits: Iterable[Limits]) -> Limits:
    """What most accounts have, in each dimension."""
    known = list(limits)
    return (
        Limits(**{d: Counter(one.of(d) for one in known).most_common(1)[0][0] for d in Dimension})
        if known
        else Limits()
    )


def _usually(learned: Iterable[_Learned]) -> bool | None:
    """Whether upstream charges what was used, as most accounts show it; None: none does."""
    known = [is_corrected for _, is_corrected in learned if is_corrected is not None]
    return 2 * sum(known) > len(known) if known else None


def _closed(settings: Settings, models: Iterable[str]) -> dict[str, frozenset[str]]:
    """By model, the accounts whose own upstream does not have it."""
    credentials = credentials_of(settings)
    return {model: closed for model in models if (closed := credentials.closed_to(model, renamable=True))}


def _clients(
    clients: Mapping[str, Client], teams: Mapping[str, RuleOptions], settings: Settings
) -> dict[str, PlanClient]:
    def rules_of(subject: str, options: RuleOptions) -> tuple[SubjectRules, ...]:
        rules: tuple[Rule, ...] = options.rules()
        zone = zone_named(options.time_zone or settings.spend.time_zone)
        return (SubjectRules(subject, rules, zone),) if rules else ()

    found: dict[str, PlanClient] = {}
    for name, client in clients.items():
        rules = rules_of(f"{CLIENT}{name}", client)
        if client.team is not None and client.team in teams:
            rules += rules_of(f"{TEAM}{client.team}", teams[client.team])
        found[name] = PlanClient(client.weight, client.max_wait, rules)
    return found


def _assumed(accounts: list[PlanAccount], unseen: Mapping[str, int], out: list[str]) -> Iterable[str]:
    if out:
        yield f"{_named(out)} cannot serve now, and stay{'s' * (len(out) == 1)} out"
    for group, count in unseen.items():
        if count:
            some = f"{count} accounts have" if count > 1 else "one account has"
            yield f"{some} not served {group} yet: what most others have is taken for the limits there"
    for group in accounts[0].limits if accounts else ():
        if group not in {OTHERS, NO_MODEL} and not any(account.limits_of(group) != Limits() for account in accounts):
            yield f"no limit of {group} is known, so nothing waits for it (--limit ACCOUNT.{group}.tpm=2M)"


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
