"""What one upstream answer means, and which key, account or organisation it concerns.

`openai/classify.py` produces verdicts; `domain/retry.py` turns them into the next step of a request;
`domain/states.py` turns them into key states. The kinds follow the classes of `docs/keys.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quotapool.domain.access import Access


class Kind(StrEnum):
    OK = "ok"
    WAIT = "wait"  # rate limit: cool (account, model group) until `retry_after_s`
    SLOW_DOWN = "slow_down"  # traffic grew too fast: wait and ramp
    TOO_LARGE = "too_large"  # this one request exceeds the account's whole budget
    MONEY = "money"  # out of credit or at a spend limit: quarantine, may come back
    DEAD = "dead"  # invalid, revoked, deactivated, terminated: removed until a person acts
    SUSPECT = "suspect"  # ambiguous 401/403: not proof of death
    MODEL = "model"  # this model or feature is not for this account; another may have it
    EGRESS = "egress"  # our network or region: every key fails alike, and none is at fault
    HEADER = "header"  # organisation/project headers do not match the key: our configuration
    REQUEST = "request"  # the caller's fault: goes back unchanged, no other key, never counted
    STATE = "state"  # the object lives in another account
    SERVICE = "service"  # OpenAI is failing or overloaded: back off, the key is fine


class Scope(StrEnum):
    """What a MONEY or DEAD verdict concerns: ACCOUNT includes its other keys, ORGANIZATION all accounts' keys."""

    KEY = "key"
    ACCOUNT = "account"
    ORGANIZATION = "organization"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer, classified.

    `reason` is a stable identifier for metrics, events and `check` (upstream's code if it has one);
    `message` is upstream's text with secrets redacted, cut to 300 characters, for people;
    `retry_after_s` is seconds from the answer, None if upstream gave none;
    `dimension` is "requests", "tokens", "images", or "" if the answer names none;
    `daily` is true for RPD/TPD messages; `limit` is the number in the message;
    `shared_group` is X of upstream's "(for limit X)", "" if absent;
    `access`: what a MODEL verdict is about, with `feature`: which feature of the model, if that is it.
    """

    kind: Kind
    reason: str = ""
    scope: Scope = Scope.NONE
    message: str = ""
    retry_after_s: float | None = None
    dimension: str = ""
    daily: bool = False
    limit: int | None = None
    shared_group: str = ""
    access: Access = Access.REQUEST
    feature: str = ""


OK = Verdict(Kind.OK)
