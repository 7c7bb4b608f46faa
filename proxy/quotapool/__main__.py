"""`quotapool`, the command line. What a command does is imported only when it is called."""

from __future__ import annotations

from quotapool.cli.commands import app


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="quotapool")  # also as `python -m quotapool`


if __name__ == "__main__":
    main()
