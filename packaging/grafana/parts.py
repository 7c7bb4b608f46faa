"""What the dashboards are made of: variables, panels, rows and the page around them, as Grafana's JSON model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

RUNBOOK: Final = "https://github.com/quotapool/quotapool/blob/main/docs/operations.md#"
TAG: Final = "quotapool"
_WIDTH: Final = 24  # columns of Grafana's grid
_SCHEMA: Final = 41  # of Grafana 11.6, which later ones read
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Model = dict[str, Any]
Steps = Sequence[tuple[float | None, str]]  # from which value on (None: from below) which colour

GREEN: Final[Steps] = ((None, "green"),)
PLAIN: Final[Steps] = ((None, "text"),)


def worse_from(warning: float, critical: float) -> Steps:
    return (None, "green"), (warning, "orange"), (critical, "red")


def better_from(warning: float, good: float) -> Steps:
    return (None, "red"), (warning, "orange"), (good, "green")


@dataclass(frozen=True)
class Variable:
    """A choice at the top of the page: the values of `label` in `metric`, all of them at first."""

    name: str
    metric: str
    label: str

    def model(self) -> Model:
        query = f"label_values({self.metric}, {self.label})"
        return {
            "type": "query",
            "name": self.name,
            "label": self.name.capitalize(),
            "datasource": _SOURCE,
            "query": {"qryType": 1, "query": query, "refId": self.name},
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",  # where a label is empty, too
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


JOB: Final = Variable("job", "quotapool_build_info", "job")
INSTANCE: Final = Variable("instance", 'quotapool_build_info{job=~"$job"}', "instance")


@dataclass(frozen=True)
class Panel:
    """`queries`: (PromQL, legend). `runbook`: a section of docs/operations.md, "" if there is none."""

    kind: str
    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str
    width: int
    height: int
    runbook: str = ""
    steps: Steps = GREEN
    instant: bool = False
    table: bool = False
    options: Model = field(default_factory=dict)
    custom: Model = field(default_factory=dict)
    limits: Model = field(default_factory=dict)  # min, max, decimals, noValue
    transformations: Sequence[Model] = ()

    def model(self, number: int, x: int, y: int) -> Model:
        colour = "palette-classic" if self.kind == "timeseries" else "thresholds"
        made: Model = {
            "type": self.kind,
            "id": number,
            "title": self.title,
            "description": self.description,
            "datasource": _SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(n, expr, legend) for n, (expr, legend) in enumerate(self.queries)],
            "options": self.options,
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "color": {"mode": colour},
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [{"value": value, "color": name} for value, name in self.steps],
                    },
                    **({"custom": self.custom} if self.custom else {}),
                    **self.limits,
                },
                "overrides": [],
            },
        }
        if self.transformations:
            made["transformations"] = list(self.transformations)
        if self.runbook:
            made["links"] = [link("What to do", RUNBOOK + self.runbook)]
        return made

    def _target(self, number: int, expr: str, legend: str) -> Model:
        return {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": expr,
            "instant": self.instant,
            "range": not self.instant,
            "legendFormat": legend or "__auto",
            "format": "table" if self.table else "time_series",
        }


def link(title: str, url: str) -> Model:
    return {
        "type": "link",
        "title": title,
        "url": url,
        "icon": "doc",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "targetBlank": True,
        "includeVars": False,
        "keepTime": False,
    }


_LAST: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def stat(
    title: str, description: str, expr: str, unit: str = "short", *, width: int = 4, runbook: str = "",
    steps: Steps = PLAIN, trend: bool = True, **limits: Any,
) -> Panel:  # fmt: skip
    """One figure, with its course behind it if `trend`."""
    options = {
        "graphMode": "area" if trend else "none",
        "colorMode": "value",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "orientation": "auto",
        "reduceOptions": _LAST,
    }
    queries = ((expr, ""),)
    return Panel(
        "stat", title, description, queries, unit, width, 4, runbook, steps, not trend, options=options, limits=limits
    )


def graph(
    title: str, description: str, *queries: tuple[str, str], unit: str = "short", width: int = 8, height: int = 8,
    runbook: str = "", stacked: bool = False, line: float | None = None, debt: bool = False, **limits: Any,
) -> Panel:  # fmt: skip
    """Courses over time. `line`: from which value on an alert comes. `debt`: they may be below 0."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if line is None else "dashed"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    steps = GREEN if line is None else ((None, "green"), (line, "red"))
    return Panel(
        "timeseries", title, description, queries, unit, width, height, runbook, steps,
        options=options, custom=custom, limits=limits if debt else {"min": 0} | limits,
    )  # fmt: skip


def bars(
    title: str, description: str, expr: str, legend: str, *, unit: str = "percentunit", width: int = 8, height: int = 8,
    runbook: str = "", steps: Steps = PLAIN, **limits: Any,
) -> Panel:  # fmt: skip
    """A bar for each series, as it is now."""
    options = {
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "orientation": "horizontal",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "reduceOptions": _LAST,
    }
    return Panel(
        "bargauge", title, description, ((expr, legend),), unit, width, height, runbook, steps, instant=True,
        options=options, limits=limits,
    )  # fmt: skip


def table(
    title: str, description: str, expr: str, columns: dict[str, str], *, unit: str = "short", width: int = 8,
    height: int = 8, runbook: str = "", **limits: Any,
) -> Panel:  # fmt: skip
    """A row for each series, as it is now. `columns`: headings of its labels and of `Value`, in order; "": left out."""
    shown = [name for name, heading in columns.items() if heading]
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True} | {name: True for name, heading in columns.items() if not heading},
            "indexByName": {name: place for place, name in enumerate(shown)},
            "renameByName": {name: columns[name] for name in shown},
        },
    }
    return Panel(
        "table", title, description, ((expr, ""),), unit, width, height, runbook, PLAIN, instant=True, table=True,
        options={"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
        custom={"align": "auto", "inspect": False, "cellOptions": {"type": "auto"}, "filterable": True},
        limits=limits, transformations=(organize,),
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Page:
    """A dashboard. Its panels fill the width from left to right and go on in the next line."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]

    def text(self) -> str:
        return json.dumps(self.model(), indent=2, ensure_ascii=False) + "\n"

    def model(self) -> Model:
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": _SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "annotations": {"list": [_restarts()]},
            "templating": {"list": [_source(), *(variable.model() for variable in self.variables)]},
            "links": [
                {**link("Quotapool", ""), "type": "dashboards", "icon": "external link", "tags": [TAG],
                 "targetBlank": False, "includeVars": True, "keepTime": True},
                link("Runbook", RUNBOOK.rstrip("#")),
            ],
            "panels": list(self._panels()),
        }  # fmt: skip

    def _panels(self) -> Iterable[Model]:
        number, y = 1, 0
        for row in self.rows:
            yield {
                "type": "row", "id": number, "title": row.title, "collapsed": False, "panels": [],
                "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": y},
            }  # fmt: skip
            number, y, x, tallest = number + 1, y + 1, 0, 0
            for panel in row.panels:
                if x + panel.width > _WIDTH:
                    x, y, tallest = 0, y + tallest, 0
                yield panel.model(number, x, y)
                number, x, tallest = number + 1, x + panel.width, max(tallest, panel.height)
            y += tallest


def _source() -> Model:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
    }


def _restarts() -> Model:
    """Where a replica started."""
    return {
        "name": "Starts",
        "enable": True,
        "hide": False,
        "iconColor": "purple",
        "datasource": _SOURCE,
        "expr": 'changes(quotapool_start_timestamp_seconds{job=~"$job"}[$__interval]) > 0',
    }
