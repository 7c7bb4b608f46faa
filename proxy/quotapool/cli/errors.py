"""How a command fails: one line on standard error, and an exit code."""

from __future__ import annotations

import sys

from quotapool.settings.values import check_name


def warn(message: str) -> None:
    """A line for people; standard output is for results. A server's words in it do not control the terminal."""
    printable = "".join(one for one in message if one.isprintable() or one == "\n")
    sys.stderr.write(f"quotapool: {printable}\n")


def fail(message: str, code: int = 2) -> int:
    """The exit code, after a line that gives the reason."""
    warn(message)
    return code


def why_no_name(name: object) -> str | None:
    """Why something new cannot be called that; None: it can. To be asked before the store is, of which more is said."""
    try:
        check_name(str(name))
    except ValueError as error:
        return str(error)
    return None
