"""A pool over several shards, in virtual time: what is used, what upstream refuses, and who waits for how long?

The design of docs/decisions/0020-a-pool-over-several-shards.md, played on the world of `budgets_in_virtual_time.py`:
the same buckets, pick of accounts, queue and independent upstream. Accounts belong to shards by rendezvous hashing. A
request draws some shards, and asks them one after the other, the one with most headroom first, until one has room.
Headroom is as it was seen up to `stale` ago: not even one's own grants since are known, as if there were very many
processes. Buckets begin nearly empty, as after an hour of more than fits: with full ones nobody would ever wait.

    python benchmarks/shards_in_virtual_time.py                       # the table of the decision, some minutes
    python benchmarks/shards_in_virtual_time.py --shards 1 16 --accounts 64 --offered 0.98 --draw even by-size

Requests are of all sizes (50 to 30,000 tokens; the load `mixed`), and estimates stay charged. *asked*: shards asked
for each request that was admitted, those included that wait and ask again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from budgets_in_virtual_time import GROUP, Case, Part, Request, World, capacity, requests
from rig.report import spread

FULLEST_AT_FIRST = 0.1  # each bucket begins with a share up to this
REQUESTS = 15_000  # of a run, about: small pools run for longer
SHORTEST_S, WARM_UP_S = 45.0, 15.0
RPM, TPM = 500, 200_000  # of an account; of a big one, so many times that


@dataclass(frozen=True, slots=True)
class Layout:
    """`choices`: shards that a request may ask. `stale`: seconds. `draw`: even, or by-size: in proportion to a shard's
    limits. `blind`: asked in the order in which they were drawn, without looking at headroom."""

    shards: int
    choices: int = 2
    stale: float = 0.05
    draw: str = "by-size"
    blind: bool = False


@dataclass(slots=True)
class Shard:
    part: Part
    places: list[tuple[int, int]]  # in the pool, and the account's size
    size: int
    headroom: float = 1.0
    seen: float = -1e9


def shard_of(account: str, shards: int) -> int:
    """Rendezvous hashing: the shard with the highest hash. One shard more takes only what will be its own."""
    return max(range(shards), key=lambda n: hashlib.blake2b(f"{account}/{n}".encode(), digest_size=8).digest())


class ShardedWorld(World):
    """`asked`: how many shards were asked, after the warm-up."""

    def __init__(self, case: Case, layout: Layout) -> None:
        super().__init__(case)
        self.layout, self.asked = layout, 0
        self.arrivals = random.Random(case.seed)  # the same requests at the same times, whatever the layout
        self.load = requests(case.load, self.arrivals)
        members: list[list[int]] = [[] for _ in range(layout.shards)]
        for n in range(case.accounts):
            members[shard_of(f"acct-{n}", layout.shards)].append(n)
        self.shards = [self._shard(numbers) for numbers in members if numbers]
        self.weights = [shard.size if layout.draw == "by-size" else 1 for shard in self.shards]
        self.draws = random.Random(case.seed + 1)
        for account, bucket in self.ours.items():
            share = self.rng.uniform(0, FULLEST_AT_FIRST)
            for i, limited in enumerate(self.upstream[account].buckets):
                limited.level = share * limited.limit
                bucket.learned[i] = limited.limit
                bucket.kept[i] = bucket.corrected[i] = limited.level
            bucket.learned[2:] = [float("inf")] * (len(bucket.learned) - 2)

    def _shard(self, numbers: Sequence[int]) -> Shard:
        part = Part.of(map(str, numbers))
        sizes = {n: self.case.size(n) for n in numbers}
        places = [(part.pool.accounts[str(n)].place, size) for n, size in sizes.items()]
        for place, _ in places:
            part.pool.note_headroom(place, GROUP, FULLEST_AT_FIRST / 2, 0.0)
        return Shard(part, places, sum(sizes.values()))

    def ask(self, request: Request, claimed: set[str]) -> float:
        """As `ask_part`, of some shards."""
        soonest = float("inf")
        for shard in self.drawn():
            self.asked += self.counts
            soonest = min(soonest, self.ask_part(shard.part, request, claimed))
            if soonest == 0:
                break
        return soonest

    def drawn(self) -> list[Shard]:
        """Different shards, in the order in which they are asked."""
        choices = min(self.layout.choices, len(self.shards))
        if choices == len(self.shards):
            drawn = list(self.shards)
            self.draws.shuffle(drawn)
        else:
            found: dict[int, Shard] = {}
            while len(found) < choices:
                (shard,) = self.draws.choices(self.shards, self.weights)
                found[id(shard)] = shard
            drawn = list(found.values())
        if self.layout.blind or len(drawn) == 1:
            return drawn
        return sorted(drawn, key=self.seen_headroom, reverse=True)

    def seen_headroom(self, shard: Shard) -> float:
        """The mean of what the pool expects of its accounts, by size, as it was when somebody last looked."""
        if self.now - shard.seen > self.layout.stale:
            levels = shard.part.pool.headroom.of(GROUP)
            shard.headroom = sum(size * levels.expected(place, self.now) for place, size in shard.places) / shard.size
            shard.seen = self.now
        return shard.headroom


def case_of(accounts: int, offered: float, big: int, seed: int) -> Case:
    case = Case("keep", "mixed", offered=offered, accounts=accounts, big=big, rpm=RPM, tpm=TPM, seed=seed)
    return replace(case, warm_up=WARM_UP_S, seconds=max(SHORTEST_S, WARM_UP_S + REQUESTS / capacity(case)))


def row(case: Case, layout: Layout, worlds: Sequence[ShardedWorld]) -> str:
    """Of several seeds: means, the sum of the refused, medians of the waits with their least and greatest. *used* is of
    the refill, so that a little more than 100 % is what was in the buckets."""
    outcomes = [world.outcome for world in worlds]
    admitted = sum(outcome.admitted for outcome in outcomes)
    how = f"{layout.choices} {layout.draw}, " + ("blind" if layout.blind else f"{layout.stale * 1000:.0f} ms")
    return (
        f"| {case.accounts:,} | {'alike' if case.big == 1 else f'1:{case.big}'} | {case.offered:.0%} | {layout.shards} "
        f"| {'' if layout.shards == 1 else how} | {statistics.fmean(outcome.used(case) for outcome in outcomes):.1%} "
        f"| {sum(outcome.refused for outcome in outcomes)} of {admitted:,} "
        f"| {spread([outcome.wait(0.5) for outcome in outcomes])} "
        f"| {spread([outcome.wait(0.99) for outcome in outcomes])} "
        f"| {sum(world.asked for world in worlds) / max(1, admitted):.2f} |"
    )


def layouts(given: argparse.Namespace) -> Iterator[Layout]:
    for shards in given.shards:
        if shards == 1:
            yield Layout(1)
            continue
        for choices, draw, stale in itertools.product(given.choices, given.draw, given.stale):
            yield Layout(shards, choices, stale, draw, given.blind)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--accounts", type=int, nargs="*", default=[64, 1024])
    asked.add_argument("--big", type=int, nargs="*", default=[1, 10], help="how much larger every eighth account is")
    asked.add_argument("--offered", type=float, nargs="*", default=[0.8, 0.98, 1.2], help="share of the budget")
    asked.add_argument("--shards", type=int, nargs="*", default=[1, 4, 16])
    asked.add_argument("--choices", type=int, nargs="*", default=[2])
    asked.add_argument("--draw", nargs="*", choices=("even", "by-size"), default=["by-size"])
    asked.add_argument("--stale", type=float, nargs="*", default=[0.05, 0.5], help="seconds")
    asked.add_argument("--blind", action="store_true", help="do not look at headroom")
    asked.add_argument("--seeds", type=int, nargs="*", default=[1])
    asked.add_argument("--seconds", type=float, help="of virtual time; default: by the size of the pool")
    given = asked.parse_args()
    print(
        "| accounts | sizes | offered | shards | choices | used | refused upstream | wait p50 s | wait p99 s | asked |"
    )
    print("|---:|---|---:|---:|---|---:|---:|---:|---:|---:|")
    for accounts, big, offered in itertools.product(given.accounts, given.big, given.offered):
        for layout in layouts(given):
            worlds = []
            for seed in given.seeds:
                case = case_of(accounts, offered, big, seed)
                worlds.append(ShardedWorld(replace(case, seconds=given.seconds or case.seconds), layout))
                worlds[-1].run()
            print(row(worlds[-1].case, layout, worlds), flush=True)


if __name__ == "__main__":
    main()
