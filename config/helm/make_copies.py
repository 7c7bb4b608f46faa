"""Writes what repeats the chart's values: the README's table, from values.yaml, and the names, from the schema.

    python config/helm/make_copies.py

And it copies the rules of config/prometheus and the dashboards of config/grafana, since a chart reads only files of its
own, and writes the rules once more as the PrometheusRule of config/kubernetes. A test compares all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parent / "quotapool"
_CONFIG: Final = CHART.parents[1]
_RULES: Final = _CONFIG / "prometheus"
_DASHBOARDS: Final = sorted((_CONFIG / "grafana").glob("*.json"))
_RULE_HEAD: Final = """\
# For the Prometheus operator: the rules of config/prometheus. Written by config/helm/make_copies.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: quotapool
  labels: {app.kubernetes.io/name: quotapool}
spec:
  groups:
"""
_TABLE: Final = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- /values -->)", re.DOTALL)
_NAMES: Final = re.compile(r'(?<=define "quotapool.names" -}}\n).*?(?={{- end }})', re.DOTALL)


def names(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted names of all values; `.*` where anything may be below."""
    definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]
    for name, of in schema["properties"].items():
        found = definitions[of["$ref"].rpartition("/")[2]] if "$ref" in of else of
        if found.get("type") != "object":
            yield above + name
        elif "properties" in found:
            yield from names(found, f"{above}{name}.")
        else:
            yield f"{above}{name}.*"


def values(text: str, known: set[str]) -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, comment) of each value that is not a group of others."""
    yield from _values(yaml.compose(text), text.splitlines(), known, "", "")


def _values(
    group: yaml.MappingNode, lines: list[str], known: set[str], above: str, comment_above: str
) -> Iterator[tuple[str, str, str]]:
    for key, value in group.value:
        name, comment = above + key.value, _comment_over(key.start_mark.line, lines) or comment_above
        is_group = not {name, f"{name}.*"} & known
        if is_group and not value.flow_style:
            yield from _values(value, lines, known, f"{name}.", comment)
        else:
            default = yaml.safe_load(yaml.serialize(value))
            yield name, json.dumps(default, ensure_ascii=False), comment


def _comment_over(line: int, lines: list[str]) -> str:
    indent = len(lines[line]) - len(lines[line].lstrip())
    found: list[str] = []
    while line and (before := lines[line - 1]).startswith(" " * indent + "# ") and not before.startswith("# ----"):
        found.insert(0, before.strip("# "))
        line -= 1
    return " ".join(found)


def table() -> str:
    known = set(names(json.loads((CHART / "values.schema.json").read_text())))
    rows = [
        f"| `{name}` | `{default}` | {comment.replace('|', '/')} |"
        for name, default, comment in values((CHART / "values.yaml").read_text(), known)
    ]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows, ""])


def prometheus_rule() -> str:
    """The groups of both files, comments included, two columns further to the right."""
    groups = [(_RULES / name).read_text().partition("\ngroups:\n")[2] for name in ("alerts.yml", "recording.yml")]
    lines = "\n".join(groups).splitlines()
    return _RULE_HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


def written() -> dict[Path, str]:
    """The files, as they should be."""
    readme, template = CHART / "README.md", CHART / "templates" / "_names.tpl"
    known = [*names(json.loads((CHART / "values.schema.json").read_text())), "global.*"]
    rules = {CHART / "rules" / name: (_RULES / name).read_text() for name in ("alerts.yml", "recording.yml")}
    dashboards = {CHART / "dashboards" / file.name: file.read_text() for file in _DASHBOARDS}
    return (
        rules
        | dashboards
        | {
            _CONFIG / "kubernetes" / "prometheusrule.yaml": prometheus_rule(),
            readme: _TABLE.sub(lambda _: table(), readme.read_text()),
            template: _NAMES.sub(lambda _: "".join(f"{name}\n" for name in sorted(known)), template.read_text()),
        }
    )


if __name__ == "__main__":
    for file, text in written().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
