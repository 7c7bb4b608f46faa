"""`quotapool doctor`: everything around the proxy that can be wrong, each in a line with its remedy.

Exit codes: 0 no problem; 1 at least one, with --strict also for a warning; 2 there is no configuration to go by.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from quotapool import __version__
from quotapool.app.command_socket import Answer, NotAllowed, Silent
from quotapool.cli import tables
from quotapool.cli.running import NoSettings, is_same_pool, look, not_allowed, settings_for, silent
from quotapool.doctor import threads
from quotapool.doctor.examine import Subject, examine
from quotapool.doctor.finding import Finding, Status, exit_code, problem, worst
from quotapool.settings import Settings

_WAIT_S: Final = 2.0  # for a proxy that starts or stops: what it waits for may be what is to be found out
_STYLES: Final = {Status.OK: "green", Status.SKIPPED: "dim", Status.WARNING: "yellow", Status.PROBLEM: "bold red"}


def run(config: Path | None, env_file: Path | None, *, strict: bool, as_json: bool) -> int:
    """Print the findings; the exit code."""
    began = time.monotonic()
    try:
        settings = settings_for(config, env_file, os.environ, wait_s=_WAIT_S)
    except NoSettings as error:
        findings = [problem("configuration", str(error), "Correct it: docs/configuration.md")]
        _print(findings, time.monotonic() - began, as_json=as_json)
        return 2
    with _told():
        findings = threads.run(examine(_subject(settings)))
    _print(findings, time.monotonic() - began, as_json=as_json)
    return exit_code(findings, strict=strict)


def _told() -> AbstractContextManager[object]:
    """At a terminal, that something is going on: it may take 10 s."""
    out = Console(stderr=True)
    words = "Looking at the store, the network and this machine …"
    return out.status(words) if out.is_terminal else nullcontext()


def _subject(settings: Settings) -> Subject:
    """With the proxy of its state_dir, if that serves the same pool."""
    answer: Answer | None = None
    silence = ""
    try:
        answer = look(settings.state_dir, wait_s=_WAIT_S)
    except NotAllowed:
        silence = not_allowed(settings.state_dir)
    except Silent as error:
        silence = silent(settings.state_dir, error.pid)
    except NoSettings as error:
        silence = str(error)
    if answer is not None and not is_same_pool(answer.head, settings):
        answer = None  # settings_for has said so
    return Subject(settings, answer, silence)


def _print(findings: list[Finding], seconds: float, *, as_json: bool) -> None:
    if as_json:
        tables.print_json(
            {
                "status": worst(findings),
                "version": __version__,
                "seconds": round(seconds, 3),
                "findings": findings,
            }
        )
        return
    out = tables.console()
    if out.is_terminal:
        table = tables.table("", "check", "found, and what to do")
        for finding in findings:
            text = Text(finding.text)
            if finding.remedy:
                text.append(f"\n→ {finding.remedy}", "bold" if finding.status is Status.PROBLEM else "")
            table.add_row(Text(finding.status, _STYLES[finding.status]), finding.check, text)
        out.print(table)
    else:
        for finding in findings:  # a line each, for grep
            remedy = f". {finding.remedy}" if finding.remedy else ""
            out.print(
                f"{finding.status:<8} {finding.check}: {_one_line(finding.text)}{_one_line(remedy)}", soft_wrap=True
            )
    counts = Counter(finding.status for finding in findings)
    shown = (f"{status}: {counts[status]}" for status in reversed(_STYLES) if counts[status])
    out.print(f"{', '.join(shown)}; {seconds:.1f} s")


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))
