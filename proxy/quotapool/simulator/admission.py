"""One admitted request, from its charge to its end: it ends exactly once, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quotapool.simulator.accounts import Key
from quotapool.simulator.answers import Usage
from quotapool.simulator.buckets import Budget


@dataclass(slots=True)
class Admission:
    """`estimate` tokens were charged to `budget`; `corrects`: at the end they are corrected to the usage.

    `record_sale` is called with what an answer, complete or cut, is billed for.
    """

    key: Key
    budget: Budget | None
    estimate: int
    corrects: bool
    record_sale: Callable[[Usage], None] = lambda _usage: None
    ended: bool = False

    def complete(self, usage: Usage, now: float) -> None:
        """The whole answer was produced."""
        if self._end(usage.total, now):
            self.record_sale(usage)
            for tally in self.key.tallies:
                tally.completed += 1
                tally.bill(usage)

    def cut(self, usage: Usage, produced: int, by: Literal["client", "fault"], now: float) -> None:
        """The stream ended early; the prompt and the tokens produced so far are billed."""
        billed = Usage(usage.prompt, produced, usage.cached, min(usage.reasoning, produced))
        if self._end(billed.total, now):
            self.record_sale(billed)
            for tally in self.key.tallies:
                tally.bill(billed)
                if by == "fault":
                    tally.broken_streams += 1
                    continue
                tally.cut_streams += 1
                tally.cut_prompt_tokens += usage.prompt
                tally.cut_completion_tokens += produced

    def fail(self, now: float) -> None:
        """No answer was produced: nothing is billed. The request stays counted, as OpenAI counts failed ones."""
        self._end(0, now)

    def _end(self, used: int, now: float) -> bool:
        if self.ended:
            return False
        self.ended = True
        if self.corrects and self.budget is not None:
            self.budget.correct(self.estimate, used, now)
        return True
