"""How a command fails: one line on standard error, and an exit code."""

from __future__ import annotations

import sys

import typer

from quotapool.settings.values import check_name


def warn(message: str) -> None:
    """A line for people; standard output is for results. A server's words in it do not control the terminal."""
    printable = "".join(one for one in message if one.isprintable() or one == "\n")
    sys.stderr.write(f"quotapool: {printable}\n")


def fail(message: str, code: int = 2) -> int:
    """The exit code, after a line that gives the reason."""
    warn(message)
    return code


def new_name(option: typer.CallbackParam, name: str | None) -> str | None:
    """A callback of what names something new: ends the command if nothing can be called that, before it asks for
    anything or the store is told."""
    if name:
        try:
            check_name(name)
        except ValueError as error:
            named = option.opts[0] if option.param_type_name == "option" else option.metavar
            warn(f"{named} {error}")
            raise typer.Exit(2) from None
    return name
