"""`quotapool config`: every option in force, its value, and where it was set."""

from __future__ import annotations

from quotapool.cli import tables
from quotapool.cli.errors import warn
from quotapool.reports.configuration import DEFAULT, configuration
from quotapool.settings import Settings


def run(settings: Settings, *, as_json: bool, changed: bool) -> int:
    """Print it as it is in force; `changed`: only what is no default."""
    found = configuration(settings, settings, ())
    if changed:
        found.options = [row for row in found.options if row.source != DEFAULT]
    if as_json:
        tables.print_json(found)
        return 0
    table = tables.table("option", "value", "from", "default")
    for row in found.options:
        default = "" if row.source == DEFAULT or row.default is None else row.default
        table.add_row(row.option, row.value, "" if row.source == DEFAULT else row.source, default)
    tables.console().print(table if found.options else "every option has its default")
    for warning in found.warnings:
        warn(warning)
    return 0
