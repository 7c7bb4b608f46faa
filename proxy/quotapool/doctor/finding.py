"""What one check found, and how findings add up."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal

import msgspec

# What there is to be found: lasting names, for programs. Each has a row in docs/doctor.md.
Check = Literal[
    "configuration",
    "configuration.remark",
    "proxy",
    "proxy.ready",
    "listen",
    "admin_listen",
    "listen.certificate",
    "state_dir",
    "state_dir.space",
    "state_dir.socket",
    "state_dir.mode",
    "metrics_dir",
    "file_limit",
    "store",
    "store.embedded",
    "store.tls",
    "store.certificate",
    "store.version",
    "store.role",
    "store.cluster",
    "store.eviction",
    "store.memory",
    "store.connections",
    "store.persistence",
    "store.rights",
    "store.script",
    "store.delay",
    "store.clock",
    "store.rest",
    "replicas",
    "keys",
    "keys.master_key",
    "keys.vault",
    "clients",
    "upstream",
    "upstream.certificate",
    "upstream.clock",
    "login.oidc",
    "alerts",
]


class Status(StrEnum):
    """PROBLEM: the proxy would not start, or would not serve as it is configured. WARNING: it would, and somebody
    should know. SKIPPED: not checked, for the reason that is given."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


_BY_WEIGHT: Final = (Status.OK, Status.SKIPPED, Status.WARNING, Status.PROBLEM)


class Finding(msgspec.Struct, frozen=True):
    """`text`: what was found, without secrets. `remedy`: what to do;
    "" if nothing is to be done."""

    check: Check
    status: Status
    text: str
    remedy: str = ""


def ok(check: Check, text: str) -> Finding:
    return Finding(check, Status.OK, text)


def skipped(check: Check, text: str) -> Finding:
    return Finding(check, Status.SKIPPED, text)


def warning(check: Check, text: str, remedy: str) -> Finding:
    return Finding(check, Status.WARNING, text, remedy)


def problem(check: Check, text: str, remedy: str) -> Finding:
    return Finding(check, Status.PROBLEM, text, remedy)


def worst(findings: Iterable[Finding]) -> Status:
    """OK if there are none."""
    return max((finding.status for finding in findings), key=_BY_WEIGHT.index, default=Status.OK)


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """1 if there is a problem, with `strict` also if there is a warning; else 0."""
    status = worst(findings)
    return int(status is Status.PROBLEM or (strict and status is Status.WARNING))
