"""What `plan` predicts from one recorded day beside what the real engine then does, as one line a case."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quotapool.plan.outcome import Outcome
from quotapool.plan.replay import replay
from quotapool.plan.scenario import Scenario, add_accounts, with_traffic, without

from tests.plan.days import Habit, Lived, Upstreams, day, live

HABITS = (
    Habit("chat", "gpt-4o", 14, (300, 1500)),
    Habit("agent", "gpt-4o", 3, (2000, 6000)),
    Habit("bulk", "gpt-4o-mini", 12, (200, 800), burst=10),
)
LIMITS = {"rpm": 60, "tpm": 10_000}
CLIENTS = {"chat": {"weight": 2}, "bulk": {"priority": "batch"}}


@dataclass(frozen=True, slots=True)
class Case:
    """`change`: of the scenario; `changed`: of the pool for real, and `habits` of who uses it."""

    name: str
    change: Callable[[Scenario], Scenario]
    changed: Callable[[Upstreams], Upstreams]
    habits: tuple[Habit, ...] = HABITS


def busier(factor: float) -> tuple[Habit, ...]:
    return tuple(replace(habit, a_minute=habit.a_minute * factor) for habit in HABITS)


CASES = (
    Case("as it is", lambda now: now, lambda now: now),
    Case(
        "an account more",
        lambda now: add_accounts(now, 1, like="a1"),
        lambda now: now.and_also(a9=now.accounts["a1"]),
    ),
    Case("an account less", lambda now: without(now, ["a31"]), lambda now: now.without("a3")),
    Case("twice the traffic", lambda now: with_traffic(now, 2), lambda now: now, busier(2)),
)


@dataclass(frozen=True, slots=True)
class Compared:
    name: str
    predicted: Outcome
    measured: Lived

    def __str__(self) -> str:
        waits, real, refusals = self.predicted.waits, self.measured.waits, self.measured.refused.total()
        return (
            f"{self.name:<28} p99 {waits.p99_s:5.2f} s for {real.p99_s:5.2f} s, refused {self.predicted.refusals:>6,} "
            f"for {refusals:>6,}, ${self.predicted.pico / 1e12:7.2f} for ${self.measured.pico / 1e12:7.2f}"
        )

    def is_within(self, part: float, *, chance: float = 0.0, of_waits: float | None = None) -> bool:
        """Waits, refusals and dollars. `chance`: so many standard deviations of a small count are no difference;
        `of_waits`: another part for waits, whose p99 is that of a few bursts where there are few requests."""
        refused, waits = self.measured.refused.total(), self.measured.waits
        return (
            abs(self.predicted.waits.p99_s - waits.p99_s) <= (of_waits or part) * waits.p99_s
            and abs(self.predicted.refusals - refused) <= max(part * refused, chance * math.sqrt(refused))
            and abs(self.predicted.pico - self.measured.pico) <= part * self.measured.pico
        )


async def compare(
    open_pool: Any,
    upstreams: Upstreams,
    cases: Sequence[Case],
    *,
    hours: float,
    days: tuple[int, int],
    workers: int = 1,
) -> list[Compared]:
    """The day of the first seed is recorded with the pool as it is; what is predicted from it is compared with what the
    changed pool does on the day of the second one."""
    recorded, other = days
    lived = await live(open_pool, day(HABITS, recorded, hours), upstreams, workers=workers, clients=CLIENTS)
    found = []
    for number, case in enumerate(cases):
        if case.name == CASES[0].name and other == recorded:
            measured = lived
        else:
            measured = await live(
                open_pool,
                day(case.habits, other, hours),
                case.changed(upstreams),
                workers=workers,
                clients=CLIENTS,
                pool=f"case{number}",
            )
        compared = Compared(case.name, replay(lived.demand, case.change(lived.scenario)), measured)
        print(f"{len(lived.demand):>7,} requests  {compared}", flush=True)
        found.append(compared)
    return found
