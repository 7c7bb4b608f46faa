"""The roster: who is in the pool, as this process knows it. Keys and accounts, written limits, and what upstream named:
shared model groups and organisations. `sync.py` keeps it in step with the store, `key_health.py` acts on verdicts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quotapool.domain.pool import Key, Pool
from quotapool.domain.quantities import Limits
from quotapool.ledger.grants import Candidate, candidate_of, written_limits
from quotapool.settings import Settings

_MOST_CACHED: Final = 50_000  # candidates, in groups of which there may at least be some
_FEWEST_GROUPS: Final = 32
_MOST_LEARNED: Final = 1_000  # groups that upstream named: where one takes any stored prompt, clients invent their ids


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration as `Roster.reload` takes it. `learned`: what was known besides it when it was prepared."""

    settings: Settings
    keys: tuple[Key, ...]
    learned: tuple[Mapping[str, object], ...]
    pool: Pool


class Readings:
    """Of the store's states, by whoever keeps a roster in step with it. They are numbered as they begin, and taken one
    after the other; one that began before the last one that was taken has nothing that is newer."""

    def __init__(self) -> None:
        self.begun = 0
        self.taken = 0
        self.one_at_a_time = asyncio.Lock()


class Roster:
    """Keys and accounts of the pool. Synchronous; nothing here waits."""

    def __init__(self, settings: Settings, keys: Sequence[Key]) -> None:
        self.pool = Pool()
        self.readings = Readings()
        self.settings = settings
        self._keys = tuple(keys)
        self._written_groups = _written_groups(settings)
        self.learned_groups: dict[str, str] = {}  # model or stored prompt -> group, as upstream named it
        self._organizations: dict[str, str] = {}  # account -> organisation, as answers named it
        self._shared_organizations: dict[str, str] = {}  # the same, of accounts that share one, in all replicas
        self._first_of: dict[str, str] = {}  # organisation -> the account that first answered for it
        self._merged: dict[str, str] = {}  # account -> the one it turned out to be
        self._urgency: dict[str, float] = {}  # account -> factor of its weight
        self._candidates: dict[str, list[Candidate | None]] = {}  # by model group: by the key's seat
        self._replace_keys()

    def __repr__(self) -> str:
        return f"<Roster {self.pool!r}>"

    def prepare(self, settings: Settings, keys: Sequence[Key]) -> Prepared:
        """What takes long of a new configuration with many keys: for a thread, one at a time, while requests are
        served from the old one."""
        learned = self._learned()
        return Prepared(settings, tuple(keys), learned, self.pool.successor(*self._members(settings, keys)))

    def reload(self, new: Prepared) -> None:
        """Take a new configuration. Requests under way keep the keys they have."""
        self.settings, self._keys = new.settings, new.keys
        self._written_groups = _written_groups(new.settings)
        self._candidates.clear()
        self.pool.become(new.pool)
        if new.learned != self._learned():
            self._replace_keys()

    def _learned(self) -> tuple[Mapping[str, object], ...]:
        return dict(self._merged), dict(self._shared_organizations), self._urgency

    def _replace_keys(self) -> None:
        self._candidates.clear()
        self.pool.replace(*self._members(self.settings, self._keys))

    def _members(self, settings: Settings, keys: Sequence[Key]) -> tuple[list[Key], dict[str, float], dict[str, str]]:
        """Keys, and weights and organisations by account: as somebody wrote, and as upstream's answers named them."""
        merged = self._merged
        ours = [replace(key, account=merged[key.account]) if key.account in merged else key for key in keys]
        named = self._shared_organizations if settings.merge_organizations else {}
        written = {name: a.organization for name, a in settings.accounts.items() if a.organization}
        return ours, self._weights(settings), {**named, **written}

    # ---- weights

    def _weights(self, settings: Settings) -> dict[str, float]:
        weights = {name: account.weight for name, account in settings.accounts.items()}
        return weights | {name: weights.get(name, 1.0) * factor for name, factor in self._urgency.items()}

    def hurry(self, urgency: Mapping[str, float]) -> None:
        """Take factors of accounts' weights: above 1 where credit would expire unused."""
        before, self._urgency = self._urgency, dict(urgency)
        weights = self._weights(self.settings)
        for name in before.keys() | urgency.keys():
            self.pool.weigh(name, weights.get(name, 1.0))

    # ---- model groups

    def group_of(self, model: str) -> str:
        """The model group whose limit `model` shares: as written, else as upstream named it, else by its name."""
        learned = None if model in self._written_groups else self.learned_groups.get(model)
        return self.settings.group_of(model) if learned is None else learned

    def learn_group(self, model: str, shared: str) -> str | None:
        """Upstream named `shared` as the limit of `model`. The model's new group; None if that changes nothing."""
        group = self.settings.group_of(shared)
        if not model or model in self._written_groups or self.group_of(model) == group:
            return None
        if len(self.learned_groups) >= _MOST_LEARNED and model not in self.learned_groups:
            return None
        self.learned_groups[model] = group
        self._candidates.pop(group, None)  # the model's limits are its group's now
        return group

    def limits_for(self, account: str, group: str) -> Limits:
        """Configured limits, of a learned group those of its models too: what was written for one still holds."""
        limits = self.settings.limits_for(account, group)
        for model, learned in self.learned_groups.items():
            if learned == group:
                limits = limits.capped_by(self.settings.limits_for(account, self.settings.group_of(model)))
        return limits

    # ---- organisations

    @property
    def merged(self) -> Mapping[str, str]:
        """Accounts that turned out to be another one's: name -> whose they are now."""
        return self._merged

    def learn_organization(self, account: str, organization: str) -> str | None:
        """An answer named the organisation behind an account. The account that is its twin, if there is one: two
        accounts of one organisation share its limits."""
        if self._organizations.get(account) == organization or account not in self.pool.accounts:
            return None
        self._organizations[account] = organization
        twin = self._first_of.setdefault(organization, account)
        return None if twin == account else twin

    def merge(self, account: str, twin: str, organization: str) -> None:
        """Let two accounts of one organisation count as one."""
        self._merged[account] = self._merged.get(twin, twin)
        self._shared_organizations |= {account: organization, twin: organization}
        self._replace_keys()

    def share_organizations(self, known: dict[str, str]) -> None:
        """Take what all replicas know of accounts that share an organisation."""
        if known != self._shared_organizations:
            self._shared_organizations = known
            self._replace_keys()

    # ---- candidates for the ledger

    def candidates(self, group: str, seats: Sequence[int]) -> list[Candidate]:
        """The keys of these seats as the ledger wants them, with the limits somebody wrote."""
        known = self._candidates.get(group) or self._room_for_candidates(group)
        return [known[seat] or self._remembered(known, seat, group) for seat in seats]

    def candidate(self, key: Key, group: str) -> Candidate:
        """The same for one, which may have left the pool while its account is still there."""
        seat = self.pool.index_of(key)
        return self._make_candidate(key, group) if seat is None else self.candidates(group, [seat])[0]

    def _room_for_candidates(self, group: str) -> list[Candidate | None]:
        """Candidates are remembered until the next reload, or until clients have named too many models."""
        seats = len(self.pool.keys)
        if len(self._candidates) >= max(_FEWEST_GROUPS, _MOST_CACHED // max(1, seats)):
            self._candidates.clear()
        return self._candidates.setdefault(group, [None] * seats)

    def _remembered(self, known: list[Candidate | None], seat: int, group: str) -> Candidate:
        made = known[seat] = self._make_candidate(self.pool.key_at(seat), group)
        return made

    def _make_candidate(self, key: Key, group: str) -> Candidate:
        account = self.pool.accounts[key.account]
        return candidate_of(
            account=key.account,
            key=key.id,
            account_fingerprint=account.fingerprint,
            key_fingerprint=key.fingerprint,
            written=written_limits(self.limits_for(key.account, group)),
            burst_s=self.settings.burst_for(key.account),
            organization=account.organization,
            place=account.place,
        )

    def largest_written(self, group: str) -> tuple[float, str]:
        """The largest token limit that was written for one of the pool's accounts, and whose it is; else (0, "").

        Looks at all accounts that the configuration names: not for every request.
        """
        limits = ((self.settings.limits_for(name, group).tpm or 0.0, name) for name in self.settings.accounts)
        return max((found for found in limits if found[1] in self.pool.accounts), default=(0.0, ""))


def _written_groups(settings: Settings) -> set[str]:
    return {model for members in settings.groups.values() for model in members}
