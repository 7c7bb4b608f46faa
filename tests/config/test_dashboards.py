"""The Grafana dashboards are what packaging/grafana makes, fit Grafana's own schema, and ask for what is exported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as grafana
from grafana_foundation_sdk.models import units
from prometheus_client import CollectorRegistry
from quotapool.observe.metrics import Metrics, PoolMetrics

from tests.fakes.grafana import DASHBOARDS, queries

ROOT = Path(__file__).parents[2]
MODELS = {file.stem: json.loads(file.read_text()) for file in DASHBOARDS}
RUNBOOK = "https://github.com/quotapool/quotapool/blob/main/docs/operations.md"
COLUMNS = 24
UNITS = {value for name, value in vars(units).items() if not name.startswith("_")}

each = pytest.mark.parametrize("name", MODELS)


def panels(model: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in model["panels"] if panel["type"] != "row"]


def test_what_is_committed_is_what_the_descriptions_make(tmp_path: Path):
    subprocess.run([sys.executable, ROOT / "packaging" / "grafana", tmp_path], check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {file.name: file.read_text() for file in DASHBOARDS} == made, "run `python packaging/grafana`"


# ---- Grafana's own schema: the types that Grafana publishes as its foundation SDK


def misfits(value: Any, wanted: Any, place: str) -> list[str]:
    """Where `value`, which the SDK made, is not of the type that its schema demands."""
    if wanted is typing.Any or wanted is object:
        # Options of a panel and the like: what the SDK knows by the panel's type has become an object of its own.
        return misfits(value, type(value), place) if _is_model(type(value)) else []
    origin, of = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in {typing.Union, types.UnionType}:
        tries = [misfits(value, one, place) for one in of]
        return [] if [] in tries else max(tries, key=_how_deep)
    if origin is typing.Literal:
        return [] if value in of else [f"{place}: {value!r} is none of {of}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{place}: {value!r} is no list"]
        return [found for n, one in enumerate(value) for found in misfits(one, of[0], f"{place}[{n}]")]
    if origin is dict:
        return [] if isinstance(value, dict) else [f"{place}: {value!r} is no object"]
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return [] if value in {one.value for one in wanted} else [f"{place}: {value!r} is no {wanted.__name__}"]
    if wanted is float:
        return [] if type(value) in {int, float} else [f"{place}: {value!r} is no number"]
    if wanted in {int, str, bool, types.NoneType}:  # True is no int here; a StrEnum is a str
        return (
            []
            if type(value) is wanted or (wanted is str and isinstance(value, str))
            else [f"{place}: {value!r} is no {wanted.__name__}"]
        )
    if isinstance(value, dict):  # some lists are left as they were read
        read = wanted.from_json(value)
        return misfits(read, wanted, place) + lost(value, _written(read), place)
    if not isinstance(value, wanted):
        return [f"{place}: {value!r} is no {wanted.__name__}"]
    hints = typing.get_type_hints(type(value), vars(sys.modules[type(value).__module__]))
    return [
        found
        for name, hint in hints.items()
        if hasattr(value, name)
        for found in misfits(getattr(value, name), hint, f"{place}.{name}")
    ]


def _how_deep(found: list[str]) -> int:
    """The branch of a union that fits furthest has the misfit that explains it."""
    return len(found[0].partition(":")[0])


def _written(value: Any) -> Any:
    return json.loads(json.dumps(value, cls=JSONEncoder))


def _is_model(kind: type) -> bool:
    return kind.__module__.startswith("grafana_foundation_sdk.models")


def lost(wanted: Any, found: Any, place: str) -> list[str]:
    """What of `wanted` is not in `found`: members that the schema does not have are dropped by the SDK."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            what
            for name, value in wanted.items()
            for what in (lost(value, found[name], f"{place}.{name}") if name in found else [f"{place}.{name}"])
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [what for n, (one, other) in pairs for what in lost(one, other, f"{place}[{n}]")]
    return [] if wanted == found else [f"{place}: {wanted!r} became {found!r}"]


def problems(model: dict[str, Any]) -> list[str]:
    """What Grafana's schema says against `model`."""
    register_default_plugins()
    read = grafana.Dashboard.from_json(model)
    return misfits(read, grafana.Dashboard, "dashboard") + lost(model, _written(read), "dashboard")


@each
def test_a_dashboard_fits_grafanas_schema(name: str):
    assert problems(MODELS[name]) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("panels", 1, "gridPos", "w"), "8"),
        (("panels", 1, "options", "graphMode"), "areas"),
        (("panels", 1, "options", "colour"), "value"),
        (("panels", 1, "fieldConfig", "defaults", "custom", "align"), 1),
        (("panels", 1, "targets", 0, "exprr"), "up"),
        (("panels", 1, "targets", 0, "format"), "series"),
        (("panels", 2, "links", 0, "targetBlank"), "yes"),
        (("panels", 2, "links", 0, "target"), True),
        (("templating", "list", 1, "multi"), "yes"),
        (("templating", "list", 1, "type"), "question"),
        (("schema",), 41),
        (("panels", 1, "fieldConfig", "defaults", "thresholds", "mode"), "relative"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_schema_notices_what_does_not_fit(place: tuple[str | int, ...], value: Any):
    model = json.loads(json.dumps(MODELS["overview"]))
    (number,) = (n for n, panel in enumerate(model["panels"]) if panel.get("title") == "Alerts")
    at = model
    if place[0] == "panels" and "custom" in place:  # only tables and graphs have custom options
        place = ("panels", number, *place[2:])
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    assert problems(model) != []


# ---- what they ask, and what they say


def exported() -> dict[str, set[str]]:
    """Name as Prometheus stores it -> labels."""
    found = {"ALERTS": {"alertname", "severity", "alertstate", "job"}}
    for metric in (*Metrics(CollectorRegistry()).declared, *PoolMetrics(CollectorRegistry()).declared):
        labels = {*metric.labels, "job", "instance"}
        suffixes = ("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",)
        found |= {metric.name + suffix: labels | ({"le"} if suffix else set()) for suffix in suffixes}
    return found


@each
def test_each_query_asks_for_metrics_and_labels_that_are_exported(name: str):
    known = exported()
    for where, expr in queries(MODELS[name]):
        found = re.findall(r"\b(quotapool_\w+|ALERTS)\b(?:\{([^}]*)\})?", expr)
        assert found, where
        for metric, selector in found:
            assert metric in known, where
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= known[metric], where


@each
def test_every_query_keeps_to_the_chosen_job(name: str):
    for where, expr in queries(MODELS[name]):
        for metric, selector in re.findall(r"\b(quotapool_\w+|ALERTS)\b(?:\{([^}]*)\})?", expr):
            assert 'job=~"$job"' in selector or (metric, where) == ("quotapool_build_info", "$job"), (where, expr)


@each
def test_a_panel_says_what_it_shows_and_its_runbook_exists(name: str):
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    for panel in panels(MODELS[name]):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        for link in panel.get("links", []):
            page, _, anchor = link["url"].partition("#")
            assert page == RUNBOOK
            assert anchor in anchors, panel["title"]


@each
def test_panels_have_titles_and_numbers_of_their_own_and_do_not_overlap(name: str):
    model = MODELS[name]
    numbers = [panel["id"] for panel in model["panels"]]
    titles = [panel["title"] for panel in model["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len(set(titles)) == len(titles)
    taken: set[tuple[int, int]] = set()
    for panel in model["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells


def test_dashboards_are_found_and_do_not_replace_each_other():
    assert sorted(MODELS) == ["clients", "keys", "overview", "store-and-process"]
    assert len({model["uid"] for model in MODELS.values()}) == len(MODELS)
    assert {tuple(model["tags"]) for model in MODELS.values()} == {("quotapool",)}
    # A dashboard of another installation has data sources of its own.
    for model in MODELS.values():
        sources = re.findall(r'"uid": "([^"]*)"', json.dumps([panel["targets"] for panel in panels(model)]))
        assert set(sources) == {"${datasource}"}


def test_every_metric_is_on_some_dashboard():
    text = " ".join(expr for model in MODELS.values() for _, expr in queries(model))
    names = {metric.name for metrics in (Metrics, PoolMetrics) for metric in metrics(CollectorRegistry()).declared}
    shown = {name for name in names if re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text)}
    assert names - shown == set()
