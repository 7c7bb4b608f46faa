"""The chart in `config/helm/quotapool`, rendered by a real helm."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "config" / "helm" / "quotapool"
KUBERNETES = "1.34"  # a helm that was built from source says 1.20 by itself
# What every installation has to give: keys, and who may call.
LEAST: dict[str, Any] = {
    "keys": {"existingSecret": "quotapool-keys"},
    "config": {"clients": [{"id": "app", "key_hash": "0" * 63 + "1"}]},
}

EVERYTHING = yaml.safe_load((Path(__file__).parents[1] / "config" / "everything.yaml").read_text())
CASES: dict[str, dict[str, Any]] = {
    "least": {},
    "external store": {"replicaCount": 3, "externalRedis": {"existingSecret": "quotapool-redis"}},
    "bundled store": {"replicaCount": 3, "valkey": {"enabled": True, "existingSecret": "quotapool-valkey"}},
    "store without a password": {"replicaCount": 3, "config": {"redis": "redis://redis:6379/0"}},
    "store from a variable": {"replicaCount": 2, "extraEnv": [{"name": "QUOTAPOOL_REDIS", "value": "redis://r/0"}]},
    "IPv6": {"listenHost": "[::]"},
    "sidecar": {"mode": "sidecar", "config": {"clients": None}, "podMonitor": {"enabled": True}},
    "everything": EVERYTHING,
}


class Refused(Exception):
    """What helm said instead of rendering."""


@dataclass(frozen=True)
class Rendered:
    """The objects that were rendered."""

    text: str

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        return [found for found in yaml.safe_load_all(self.text) if found]

    def one(self, kind: str, name: str = "quotapool") -> dict[str, Any]:
        (found,) = (it for it in self.objects if it["kind"] == kind and it["metadata"]["name"] == name)
        return found

    def kinds(self) -> set[str]:
        return {it["kind"] for it in self.objects}

    @property
    def pod(self) -> dict[str, Any]:
        return dict(self.one("Deployment")["spec"]["template"])

    @property
    def container(self) -> dict[str, Any]:
        (found,) = self.pod["spec"]["containers"]
        return dict(found)

    @property
    def config(self) -> dict[str, Any]:
        """quotapool.yaml"""
        return dict(yaml.safe_load(self.one("ConfigMap")["data"]["quotapool.yaml"]))


@dataclass(frozen=True)
class Helm:
    program: str
    home: Path

    def __call__(self, *arguments: str, given: str = "") -> str:
        """Its standard output. Raises Refused."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        ended = subprocess.run(
            [self.program, *arguments], env=env, input=given, capture_output=True, text=True, timeout=300
        )
        if ended.returncode:
            raise Refused(ended.stdout + ended.stderr)
        return ended.stdout

    def template(self, values: dict[str, Any], chart: Path = CHART, name: str = "quotapool") -> Rendered:
        """Exactly these values over the chart's own. Raises Refused."""
        arguments = ("--namespace", "llm", "--kube-version", KUBERNETES, "--values", "-")
        return Rendered(self("template", name, str(chart), *arguments, given=yaml.safe_dump(values)))


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings merged, as helm does."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = over(merged[name], value) if both else value
    return merged


def labels_fit(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())
