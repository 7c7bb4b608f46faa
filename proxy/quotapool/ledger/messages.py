"""Encodes the scripts' arguments and decodes their results, as the ledger's own types. The formats: `lua/*.lua`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from quotapool.domain.bucket import DIMENSIONS, Bucket, Moment
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.states import Record, State
from quotapool.ledger.grants import Blocked, BlockedRule, Candidate, Granted, Hold, Observed, Refused
from quotapool.ledger.rules import Charge

_UNBOUNDED: Final = -1e18
_WAS_UNBOUNDED: Final = Moment(_UNBOUNDED, _UNBOUNDED, 0.0, 0.0)
MOST: Final = 1e15  # of anything else
_INDEX: Final = {dimension: index for index, dimension in enumerate(DIMENSIONS, 1)}  # as the scripts count

_BLOCKED: Final = 2  # of the results of a reserve
_ARRAY_OF_54: Final = b"\xdc\x00\x36"

_unpack = msgspec.msgpack.Decoder().decode


def parse_reserve(
    result: list[Any],
    name: str,
    group: str,
    cost: Cost,
    candidates: Sequence[Candidate],
    charge: Charge | None,
    now: float,
) -> Granted | Refused | Blocked:
    """The script's result of a reserve. `now`: the store's second."""
    if result[0] == 1:
        index, at, headroom, is_trial, flat = result[1:6]
        if charge is not None:
            charge.saw(result[6], at)
        moments: dict[Dimension, Moment] = {}
        learned: dict[Dimension, float] = {}
        for i in range(0, len(flat), 8):
            dimension = DIMENSIONS[flat[i] - 1]
            moments[dimension] = Moment(*flat[i + 1 : i + 7])
            learned[dimension] = flat[i + 7]
        return Granted(name, group, cost, candidates[index - 1], at, headroom, bool(is_trial), moments, learned, charge)
    if charge is not None and result[0] == _BLOCKED:
        return blocked_of(result[1], charge, now)
    _, wait, which, hints, dead, refill_s = result
    return Refused(
        wait if wait >= 0 else None,
        DIMENSIONS[which - 1] if which else None,
        tuple(hints),
        tuple(candidates[n - 1] for n in dead),
        refill_s,
    )


def parse_hold(result: list[Any], charge: Charge, now: float) -> Hold | Blocked:
    """The script's result of a hold. `now`: the store's second."""
    if result[0] == _BLOCKED:
        return blocked_of(result[1], charge, now)
    charge.saw(result[1], now)
    return Hold(charge, now)


def blocked_of(flat: Sequence[float], charge: Charge, at: float) -> Blocked:
    """The script's answer: place, used, held and wait of each rule that blocks."""
    rules = []
    for n in range(0, len(flat), 4):
        place = int(flat[n]) - 1
        standing, wait_s = charge.standings[place], flat[n + 3]
        standing.saw(flat[n + 1], flat[n + 2], at)
        wait = None if wait_s < 0 else wait_s
        rules.append(BlockedRule(standing, charge.amounts[place], flat[n + 1], flat[n + 2], wait))
    return Blocked(tuple(rules), at, charge.guessed)


def evidence_of(granted: Granted, observed: Sequence[Observed], *, refused: bool = False) -> list[tuple[float, ...]]:
    """What upstream reported beside what we predicted, as the script compares it. `refused`: it did not admit this."""
    evidence: list[tuple[float, ...]] = []
    # Levels of this process's share cannot be compared with the store's buckets.
    moments = {} if granted.local else granted.moments
    for o in observed:
        if is_sound(o):
            then, left = moments.get(o.dimension, _WAS_UNBOUNDED), o.remaining
            if refused:
                left -= granted.cost.of(o.dimension)
            evidence.append(
                (_INDEX[o.dimension], bounded(o.limit, MOST), bounded(left, MOST), *msgspec.structs.astuple(then))
            )
    return evidence


def packed_array(packed: Sequence[bytes]) -> msgspec.Raw:
    """One MessagePack array of elements that are packed already."""
    count = len(packed)
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return msgspec.Raw(head + packed[0] if count == 1 else b"".join((head, *packed)))


def is_sound(observed: Observed) -> bool:
    """Upstreams that imitate OpenAI report a limit of 0 if they have none; it would close the account for days."""
    return 0 < observed.limit < math.inf and -math.inf < observed.remaining < math.inf


def bounded(value: float, most: float) -> float:
    """`value` within ±most; 0 for NaN, which would stay in a bucket forever."""
    if -most <= value <= most:
        return value
    return 0.0 if math.isnan(value) else max(-most, min(most, value))


def bucket_key(prefix: str, account: str, group: str) -> str:
    return f"{prefix}:b3:{len(account.encode())}:{account}:{group}"


def bucket_of(raw: bytes) -> Bucket:
    """A stored bucket: its 54 numbers in a row."""
    numbers: list[float] = _unpack(_ARRAY_OF_54 + raw)
    (at, cool_until, lean, seen, burst_s, ramp), *dimensions = (numbers[n : n + 6] for n in range(0, 54, 6))
    kept, corrected, learned, charged, recent, margin, taught_kept, taught_corrected = dimensions
    return Bucket(
        at=at,
        cool_until=cool_until,
        kept=[None if level <= _UNBOUNDED else level for level in kept],
        corrected=[None if level <= _UNBOUNDED else level for level in corrected],
        learned=[math.inf if limit >= -_UNBOUNDED else limit for limit in learned],
        charged=charged,
        recent=recent,
        margin=margin,
        taught_kept=taught_kept,
        taught_corrected=taught_corrected,
        lean=lean,
        seen=seen,
        burst_s=burst_s,
        ramp=ramp,
    )


def record_of(raw: bytes) -> Record:
    value: Mapping[str, Any] = _unpack(raw)
    return Record(
        state=State(value["state"]),
        reason=value["reason"],
        since=value["since"],
        until=value["until"],
        tries=int(value["tries"]),
        status=int(value["status"]),
        message=value["message"],
        request_id=value["request_id"],
        by=value["by"],
        fingerprint=value["fingerprint"],
    )
