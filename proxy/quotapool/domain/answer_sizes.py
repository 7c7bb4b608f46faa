"""How large the prompts and answers of a client and model really are: for what a request may cost at most.

A prompt is estimated by its characters, and images or other scripts than Latin make that too low; most requests name no
maximum for their answer. Both are learned from the answers themselves.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

UNKNOWN_OUTPUT: Final = 4096
"""Tokens that an answer without a named maximum is taken for until some were seen."""
FRAMING: Final = 8
"""Tokens around a prompt's words: roles and separators, which no estimate by characters knows."""
_MOST_TIMES: Final = 8.0
_FORGET: Final = 0.02  # of what the largest was beyond the estimate, with each smaller one
_REMEMBERED: Final = 256  # answers
_AGAIN_AFTER: Final = 16  # answers: the quantile is worked out again
_QUANTILE: Final = 0.99
_LARGEST: Final = 2**32 - 1


class AnswerSizes:
    """Of one client and model."""

    __slots__ = ("_high", "_new", "_next", "_outputs", "times")

    def __init__(self) -> None:
        self.times = 1.0  # by how much prompts are larger than estimated, of the largest lately
        self._outputs = array("I")  # a ring: there may be ten thousand of these
        self._next = 0
        self._high = UNKNOWN_OUTPUT
        self._new = 0

    @property
    def output(self) -> int:
        """Tokens that 99 of 100 answers without a named maximum do not exceed."""
        return self._high

    def prompt(self, estimate: int) -> int:
        """Tokens that a prompt of this estimate has at most, as far as was seen."""
        return math.ceil((estimate + FRAMING) * self.times)

    def learn(self, estimate: int, prompt: int, output: int | None) -> None:
        """`estimate` and `prompt`: tokens of one request; `output`: of its answer; None: it named a maximum."""
        times = prompt / (estimate + FRAMING)
        if times > self.times:
            self.times = min(_MOST_TIMES, times)
        else:
            self.times -= (self.times - max(1.0, times)) * _FORGET
        if output is None:
            return
        output = min(output, _LARGEST)
        if len(self._outputs) < _REMEMBERED:
            self._outputs.append(output)
        else:
            self._outputs[self._next] = output
            self._next = (self._next + 1) % _REMEMBERED
        self._new += 1
        if output > self._high or self._new >= _AGAIN_AFTER:
            self._new = 0
            ordered = sorted(self._outputs)
            self._high = ordered[min(len(ordered) - 1, int(len(ordered) * _QUANTILE))]
