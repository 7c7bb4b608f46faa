"""From what the pool saved a request: it was served although an attempt had failed, or after a wait in the queue."""

from __future__ import annotations

from typing import Final

from quotapool.domain.request_record import RequestRecord

QUEUED: Final = "queued"
RESCUED: Final = ("rate_limit", "money", "key", "network", "server")
"""What the first failed attempt met; the words of the admin API."""
_OF_OUTCOME: Final = {  # an attempt's outcome
    **dict.fromkeys(("wait", "slow_down", "too_large"), "rate_limit"),
    "money": "money",
    **dict.fromkeys(("dead", "suspect", "header", "model", "state"), "key"),
    **dict.fromkeys(("network", "egress"), "network"),
    "service": "server",
}


def rescues_of(record: RequestRecord) -> list[str]:
    """Words of `RESCUED`, and `QUEUED`; none if it was not served. At most one of each: it counts as one request,
    however often it was tried again."""
    if record.code or not 0 < record.status < 400 or not record.attempts:
        return []
    words = [QUEUED] if record.queued_s > 0 else []
    if len(record.attempts) > 1:
        met = (_OF_OUTCOME.get(attempt.outcome) for attempt in record.attempts[:-1])
        words += [word for word in met if word is not None][:1]
    return words
