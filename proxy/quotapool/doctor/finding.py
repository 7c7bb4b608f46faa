"""What one check found, and how findings add up."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec


class Status(StrEnum):
    """PROBLEM: the proxy would not start, or would not serve as it is configured. WARNING: it would, and somebody
    should know. SKIPPED: not checked, for the reason that is given."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


_BY_WEIGHT: Final = (Status.OK, Status.SKIPPED, Status.WARNING, Status.PROBLEM)


class Finding(msgspec.Struct, frozen=True):
    """`check`: a lasting name, such as store.memory. `text`: what was found, without secrets. `remedy`: what to do;
    "" if nothing is to be done."""

    check: str
    status: Status
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    return Finding(check, Status.OK, text)


def skipped(check: str, text: str) -> Finding:
    return Finding(check, Status.SKIPPED, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Status.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Status.PROBLEM, text, remedy)


def worst(findings: Iterable[Finding]) -> Status:
    """OK if there are none."""
    return max((finding.status for finding in findings), key=_BY_WEIGHT.index, default=Status.OK)


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """1 if there is a problem, with `strict` also if there is a warning; else 0."""
    status = worst(findings)
    return int(status is Status.PROBLEM or (strict and status is Status.WARNING))
