"""What is read of one request, what its answer depends on, and one answer's rate headers."""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.domain.quantities import Cost

_MINUTE_S: Final = 60.0
_DAY_S: Final = 86_400.0


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """One parsed request. Optional fields of a wrong type are read as absent: upstream decides about them.

    `cost.tokens` is what OpenAI's limiter charges at admission. `asked_usage`: the client itself asked for the usage
    chunk. `stateful`: in the background or in a conversation, so repeating it could act twice. `store` is as sent
    (absent means true on responses, false on chat). `prompt` is the id of a stored prompt template; it takes the
    model's place if the request leaves that to the template.
    """

    model: str
    stream: bool
    asked_usage: bool
    cost: Cost
    stateful: bool = False
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt: str = ""
    prompt_tokens: int = 0  # the estimate for the prompt alone: characters / 4
    output: int = 0  # the most tokens of output that it allows, all choices together; 0: it names no maximum
    choices: int = 1  # answers it asks for
    background: bool = False  # its answer is fetched later
    summary: bool = False  # it wants a summary of the reasoning


class Canonical(msgspec.Struct, frozen=True, gc=False):
    """What a request's answer depends on, spelled in one way (`openai/cacheable.py`).

    `text`: equal for all requests of one endpoint that ask for the same answer. `temperature`: as asked, 1 where none
    is given (OpenAI's default), 0 where nothing is sampled. `streamed`: the client wants events. `asked_usage`: with a
    usage chunk (chat and completions). `choices`: what an answer has to hold, `n` for each prompt or a vector for each
    input. `own`: a JSON object of the members that a response repeats from its request and that are not in `text`
    (`openai/own_members.py`), b"" if there are none.
    """

    text: bytes
    temperature: float = 0.0
    streamed: bool = False
    asked_usage: bool = False
    choices: int = 1
    own: bytes = b""


class RateHeaders(msgspec.Struct, frozen=True, gc=False):  # made with every answer: a frozen dataclass takes 1 µs more
    """What one answer reports about the buckets that admitted it. None if a header is absent or unreadable.

    Limits and remaining are requests or tokens; `reset_requests_s` is seconds until that bucket is full. The headers
    of project tokens come only if the project has its own token limit.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    limit_project_tokens: int | None = None
    remaining_project_tokens: int | None = None

    @property
    def requests_are_daily(self) -> bool | None:
        """Whether the three headers of requests show RPD instead of RPM; None if the numbers do not decide it.

        `remaining` is rounded down, so between used-1 and used slots are missing, and the reset lies between
        (used-1)/limit and used/limit of the period. A reset that fits a minute is read as a minute: a day's bucket is
        that close to full only once in 1,440 answers.
        """
        limit, remaining, reset_s = self.limit_requests, self.remaining_requests, self.reset_requests_s
        if not limit or remaining is None or reset_s is None or remaining >= limit:
            return None
        used = limit - remaining
        rounding_s = 0.005 + used / limit * 3.0  # OpenAI rounds; 5 % of a minute is far from a day
        if reset_s <= used / limit * _MINUTE_S + rounding_s:
            return False
        if (used - 1) / limit * _DAY_S - rounding_s <= reset_s <= used / limit * _DAY_S + rounding_s:
            return True
        return None
