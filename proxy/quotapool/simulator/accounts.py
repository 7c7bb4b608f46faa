"""The accounts and keys that may call, their budgets, and their counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from quotapool.simulator.answers import Usage
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import AccountConfig, simulated_secret
from quotapool.simulator.faults import Fault, FaultSlot, Hit, Kind
from quotapool.simulator.parsed_request import model_group
from quotapool.simulator.sales import Sales


class Tally(msgspec.Struct, kw_only=True):
    """Counts of one key or one account. Billed tokens include those of cut and broken streams.

    `charged_tokens` are the estimates charged at admission. `cut_*` are answers during which the client left (one that
    is not streamed bills its prompt only), with the tokens produced by then; `broken_streams` are answers that a fault
    cut. `after_death` are attempts answered by a dead or money fault (from the first of which a proxy learns), with the
    Unix times of the first and the last.
    """

    attempts: int = 0
    admitted: int = 0
    charged_tokens: int = 0
    completed: int = 0
    open_streams: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    faulted: dict[str, int] = msgspec.field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cut_streams: int = 0
    cut_prompt_tokens: int = 0
    cut_completion_tokens: int = 0
    broken_streams: int = 0
    after_death: int = 0
    after_death_first: float | None = None
    after_death_last: float | None = None

    def count_refusal(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def count_fault(self, fault: Fault, at: float) -> None:
        self.faulted[fault.name] = self.faulted.get(fault.name, 0) + 1
        if fault.kind in {Kind.DEAD, Kind.MONEY}:
            self.after_death += 1
            self.after_death_first = self.after_death_first or at
            self.after_death_last = at

    def bill(self, usage: Usage) -> None:
        self.prompt_tokens += usage.prompt
        self.completion_tokens += usage.completion
        self.total_tokens += usage.total
        self.cached_tokens += usage.cached
        self.reasoning_tokens += usage.reasoning


@dataclass(slots=True)
class Key:
    """One secret. `index` is its place in the order of creation, over all accounts."""

    index: int
    secret: str
    account: Account
    slot: FaultSlot = field(default_factory=FaultSlot)
    tally: Tally = field(default_factory=Tally)

    def fault_for(self, method: str, model: str) -> Hit | None:
        """The fault that hits this request: the key's own, else its account's."""
        for slot in (self.slot, self.account.slot):
            scheduled = slot.fault
            fault = None if scheduled is None else scheduled.hits(method, model)
            if fault is not None and scheduled is not None:
                return Hit(fault, scheduled, slot)
        return None

    @property
    def tallies(self) -> tuple[Tally, Tally]:
        return self.tally, self.account.tally


@dataclass(slots=True)
class Account:
    """One organisation with one project: all its keys share everything."""

    config: AccountConfig
    budgets: dict[str, Budget] = field(default_factory=dict)
    slot: FaultSlot = field(default_factory=FaultSlot)
    tally: Tally = field(default_factory=Tally)

    @property
    def organization_name(self) -> str:
        return self.config.organization or self.config.id

    @property
    def organization(self) -> str:
        return f"org-sim-{self.organization_name}"

    @property
    def project(self) -> str:
        return f"proj_sim_{self.config.id}"

    def budget(self, model: str, now: float) -> Budget:
        group = model_group(model)
        found = self.budgets.get(group)
        if found is None:
            found = self.budgets[group] = Budget(self.config.limits_of(group), now)
        return found


class Directory:
    """All accounts and keys."""

    def __init__(self, accounts: tuple[AccountConfig, ...]) -> None:
        self.accounts: dict[str, Account] = {}
        self.by_secret: dict[str, Key] = {}
        self.keys: list[Key] = []
        self.sales = Sales()
        self.unknown_keys = 0
        for config in accounts:
            self.put(config)

    def put(self, config: AccountConfig) -> list[Key]:
        """Add an account, or give an existing one new limits (with full buckets) and more keys.

        Returns its keys. A new account without keys gets a generated one. Raises ValueError if a secret belongs to
        another account.
        """
        account = self.accounts.get(config.id)
        secrets = config.keys
        if account is None and not secrets:
            secrets = (self.unused_secret(),)
        for secret in secrets:
            owner = self.by_secret.get(secret)
            if owner is not None and owner.account is not account:
                raise ValueError(f"a key of account {config.id} already belongs to {owner.account.config.id}")
        if account is None:
            account = self.accounts[config.id] = Account(config)
        account.config = config
        account.budgets.clear()
        for secret in secrets:
            if secret not in self.by_secret:
                key = Key(len(self.keys), secret, account)
                self.keys.append(key)
                self.by_secret[secret] = key
        return [key for key in self.keys if key.account is account]

    def unused_secret(self) -> str:
        index = len(self.keys)
        while simulated_secret(index) in self.by_secret:
            index += 1
        return simulated_secret(index)

    def find(self, name: str) -> Key | None:
        """A key by its secret or by its index."""
        known = self.by_secret.get(name)
        if known is None and name.isdecimal() and int(name) < len(self.keys):
            return self.keys[int(name)]
        return known

    def reset(self) -> None:
        """Forget counts and faults and fill every bucket; accounts and keys stay."""
        self.unknown_keys = 0
        self.sales = Sales()
        for account in self.accounts.values():
            account.budgets.clear()
            account.slot.set(None)
            account.tally = Tally()
        for key in self.keys:
            key.slot.set(None)
            key.tally = Tally()

    def report(self) -> dict[str, Any]:
        """What `GET /_sim/stats` shows. Keys are named by index, never by secret."""
        now = time.monotonic()
        return {
            "unknown_key_attempts": self.unknown_keys,
            "accounts": [
                {
                    "id": account.config.id,
                    "organization": account.organization,
                    "fault": account.slot.fault,
                    "buckets": {group: budget.gauges(now) for group, budget in account.budgets.items()},
                    **msgspec.structs.asdict(account.tally),
                    "keys": [
                        {"index": key.index, "fault": key.slot.fault, **msgspec.structs.asdict(key.tally)}
                        for key in self.keys
                        if key.account is account
                    ],
                }
                for account in self.accounts.values()
            ],
        }
