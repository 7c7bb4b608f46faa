"""The dashboards of config/grafana, as tests look at them: their queries, with Grafana's variables filled in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "config" / "grafana").glob("*.json"))


def queries(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(title of the panel, `$` and name of the variable, or name of the annotation; what it asks)."""
    for variable in model["templating"]["list"]:
        if variable["type"] == "query":
            yield "$" + variable["name"], variable["query"]["query"]
    for annotation in model["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for panel in model["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def filled_in(expr: str, window: str, **chosen: str) -> str:
    """As Grafana sends it: each variable replaced, `All` by `.*`; rates over `window`."""
    for name in ("$__rate_interval", "$__interval"):
        expr = expr.replace(name, window)
    for name in ("job", "instance", "account", "client", "model"):
        expr = expr.replace(f"${name}", chosen.get(name, ".*"))
    assert "$" not in expr, expr
    return expr
