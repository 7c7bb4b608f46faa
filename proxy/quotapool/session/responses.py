"""Responses of a session: what its client may ask for, and one response from its beginning to its settling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from quotapool.domain.quantities import Certainty, Cost, Usage
from quotapool.ledger.budgets import Charge, Granted
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.facts import RequestFacts
from quotapool.openai.refusal import Refusal
from quotapool.request.client_request import ClientRequest
from quotapool.request.read import LONGEST_MODEL, TIERS
from quotapool.session.own_objects import OwnObjects

UNSEEN: Final = Usage(Certainty.AT_LEAST)
"""What a response used whose end was not seen."""
_CREATE: Final = cast("Endpoint", resolve("POST", "/v1/responses"))


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What a session's client may do in it. `asks_first`: it sends `response.create` with the whole request."""

    asks_first: bool
    is_limited: bool  # it may not use every model
    patience_s: float  # how long a response waits for a budget
    # (model, event, account): the event to send, and whether it needs that account or this connection; raises Refusal
    check: Callable[[str, bytes, str], Awaitable[tuple[bytes, bool]]]
    check_event: Callable[[bytes, str], Awaitable[None]]  # (any other event, account); raises Refusal
    own: OwnObjects
    # (model group, cost, accounts that may be; None: any): to another account, if one has room
    move: Callable[[str, Cost, frozenset[str] | None], Awaitable[Granted | None]]
    refused: Callable[[Refusal], None]  # an event was answered with it
    hide: Callable[[bytearray], bytearray]  # the secret of the session's key, in what upstream sends


@dataclass(slots=True, eq=False)
class Response:
    """One response under way. `seen`: tokens by which upstream's bucket was lower than ours since it began."""

    model: str
    started: float
    granted: Granted | None = None  # None: nothing was taken for it beforehand
    prompt_estimate: int = 0
    charge: Charge | None = None  # what it holds of its client's rules
    seen: float = 0.0


def request_of(facts: RequestFacts, group: str) -> ClientRequest:
    """A response that is asked for over a WebSocket, as the same request over HTTP would be read."""
    tier = facts.service_tier if facts.service_tier in TIERS else ""
    model = facts.model[:LONGEST_MODEL]
    return ClientRequest(
        _CREATE,
        b"",
        None,
        model,
        group,
        facts.cost,
        replayable=False,
        tier=tier,
        prompt_tokens=facts.prompt_tokens,
        output=facts.output,
        background=facts.background,
    )


def sum_of(one: Usage, other: Usage) -> Usage:
    certainty = Certainty.EXACT if other.certainty is not Certainty.AT_LEAST else Certainty.AT_LEAST
    return Usage(
        certainty,
        one.prompt + other.prompt,
        one.completion + other.completion,
        one.cached_prompt + other.cached_prompt,
        one.reasoning + other.reasoning,
    )
