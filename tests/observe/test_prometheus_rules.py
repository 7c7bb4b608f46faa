"""The files in `config/prometheus` work in a real Prometheus, and every alert refers to a page that says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from quotapool.observe.metrics import Metrics, PoolMetrics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "prometheus"
RUNBOOK = "https://github.com/quotapool/quotapool/blob/main/docs/operations.md#"
# What a histogram, and Prometheus itself, add to the declared names.
SUFFIXES = ("_bucket", "_sum", "_count")
PROMETHEUS_OWN = {"up"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus"
)


def rules(file: str) -> list[dict]:
    return [rule for group in yaml.safe_load((CONFIG / file).read_text())["groups"] for rule in group["rules"]]


ALERTS = rules("alerts.yml")
RECORDED = rules("recording.yml")


def declared() -> dict[str, tuple[str, ...]]:
    """Name as Prometheus stores it -> labels."""
    found = {}
    for metric in (*Metrics(CollectorRegistry()).declared, *PoolMetrics(CollectorRegistry()).declared):
        found[metric.name] = metric.labels
        if metric.type == "histogram":
            for suffix in SUFFIXES:
                found[metric.name + suffix] = (*metric.labels, "le")
    return found


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "recording.yml", "alerts.yml"],
        ["test", "rules", "tests.yml"],
    ],
    ids=["config", "rules", "unit tests of the rules"],
)
def test_promtool_accepts(command):
    ended = subprocess.run(["promtool", *command], cwd=CONFIG, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDED], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_only_for_what_is_exported(rule):
    known = {*declared(), *PROMETHEUS_OWN, *(recorded["record"] for recorded in RECORDED)}
    expression = re.sub(r'"[^"]*"', "", rule["expr"])
    names = set(re.findall(r"\b(?:quotapool[\w:]*|up)\b", expression))
    assert names
    assert names <= known


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDED], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_selects_only_by_labels_the_metric_has(rule):
    labels = {**declared(), "up": ("job",), "ALERTS": ("alertname", "alertstate")}
    for name, selector in re.findall(r"(\w[\w:]*)\{([^}]*)\}", rule["expr"]):
        assert set(re.findall(r"(\w+)\s*=", selector)) <= set(labels[name])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_where_and_what_to_do(alert):
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert notes["summary"]
    # What is absent has no job.
    assert ("{{ $labels.job }}" in notes["description"]) is not alert["expr"].startswith("absent_over_time(")
    assert notes["runbook_url"].startswith(RUNBOOK)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_the_runbook_has_a_section_for_an_alert(alert):
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert alert["annotations"]["runbook_url"].removeprefix(RUNBOOK) in set(map(slug, headings))


@pytest.mark.parametrize(
    "needed",
    [
        "quotapool_bucket_level",
        'quotapool_keys{state="active"}',
        'quotapool_key_state{state="removed"}',
        'quotapool_key_state{state="quarantined"}',
        'status="429"',
        'outcome="wait"',
        "service|network",
        "quotapool_retries_total",
        "quotapool_queue_wait_seconds_bucket",
        "quotapool_store_errors_total",
        "quotapool_store_seconds_bucket",
        "quotapool_store_up",
        "quotapool_store_shared",
        "quotapool_worker_restarts_total",
        'quotapool_worker_restarts_total{reason="hung"}',
        "quotapool_workers_configured",
        "granted_local|refused_local",
        "quotapool_locked_keys",
        "quotapool_cache_failures_total",
        "quotapool_store_memory_bytes",
        "absent_over_time(quotapool_build_info",
        "quotapool_open_files_limit",
        'quotapool_traced_requests_total{result=~"failed|dropped"}',
        "quotapool_proxy_overhead_seconds_bucket",
        "quotapool_event_loop_lag_seconds",
    ],
)
def test_some_alert_watches(needed):
    recorded = {rule["record"]: rule["expr"] for rule in RECORDED}
    texts = []
    for alert in ALERTS:
        texts.append(alert["expr"])
        texts += [text for name, text in recorded.items() if name in alert["expr"]]
    # headroom by pool and by account are recorded from the same metric
    assert any(needed in text for text in texts)
