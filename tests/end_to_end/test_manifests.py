"""Compose and Kubernetes manifests: valid, closed to the outside, without secrets, with one store for everybody."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.fakes.grafana import DASHBOARDS
from tests.fakes.helm import LEAST, Helm, over

ROOT = Path(__file__).parents[2]
OF_THE_OPERATOR = {"podmonitor.yaml", "prometheusrule.yaml"}  # Prometheus'; Kubernetes has no schemas of them
MANIFESTS = sorted(file for file in (ROOT / "config" / "kubernetes").glob("*.yaml") if file.name not in OF_THE_OPERATOR)
KUBERNETES = ("1.30", kubernetes_validate.latest_version())  # the first with `preStop: sleep` on, and the newest
SECRET_NAME = re.compile(r"key|token|secret|password", re.IGNORECASE)


# ---- compose ----


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / "compose.yaml").read_text())


def test_compose_publishes_on_loopback_only_and_never_the_store(compose: dict[str, Any]):
    services = compose["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert {port.rpartition(":")[0] for port in published} == {
        "127.0.0.1:8080",
        "127.0.0.1:9090",
        "127.0.0.1:9091",
        "127.0.0.1:9093",
        "127.0.0.1:3000",
    }
    assert "ports" not in services["store"]
    assert [name for name, service in services.items() if service["networks"] == ["store"]] == ["store"]
    assert compose["networks"]["store"]["internal"] is True


def test_the_prometheus_of_compose_differs_from_the_plain_one_in_its_target_and_who_is_told(compose: dict[str, Any]):
    prometheus = compose["services"]["prometheus"]
    (chosen,) = (word.partition("=")[2] for word in prometheus["command"] if word.startswith("--config.file="))
    assert prometheus["volumes"][0] == "./prometheus:/etc/prometheus:ro"

    folder = ROOT / "config" / "prometheus"
    of_compose = yaml.safe_load((folder / Path(chosen).name).read_text())
    plain = yaml.safe_load((folder / "prometheus.yml").read_text())

    (scrape,) = of_compose["scrape_configs"]
    assert scrape.pop("static_configs") == [{"targets": ["proxy:9090"]}]
    assert plain["scrape_configs"][0].pop("static_configs") == [{"targets": ["127.0.0.1:9090"]}]
    assert of_compose.pop("alerting") == {"alertmanagers": [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]}
    assert of_compose == plain
    assert "9090" in compose["services"]["proxy"]["ports"][1].rpartition(":")[2]


def test_every_compose_service_is_read_only_and_without_privileges(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_the_compose_store_keeps_its_ledger_and_never_evicts(compose: dict[str, Any]):
    store = compose["services"]["store"]
    command = store["command"]

    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert "store:/data" in store["volumes"]
    assert set(compose["volumes"]) == {"state", "store", "prometheus", "alertmanager", "grafana"}


def test_compose_makes_a_client_key_before_the_proxy_starts_and_only_once(compose: dict[str, Any], tmp_path: Path):
    services = compose["services"]
    assert services["proxy"]["depends_on"]["client-key"] == {"condition": "service_completed_successfully"}
    one_shot = services["client-key"]
    assert one_shot["restart"] == "no"
    assert one_shot["volumes"] == services["proxy"]["volumes"]

    script = one_shot["command"][0].replace("$$", "$").replace("/var/lib/quotapool", str(tmp_path))
    stand_in = tmp_path / "quotapool"  # says what it was asked
    stand_in.write_text('#!/bin/sh\necho "asked: $*"\n')
    stand_in.chmod(0o755)

    def up() -> str:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = [*one_shot["entrypoint"], script]
        return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True).stdout

    assert up() == "asked: clients add compose\n"
    assert "asked" not in up()


def test_compose_holds_no_secret_itself_and_gives_streams_time_to_end(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        given = {option: text for option, text in service.get("environment", {}).items() if SECRET_NAME.search(option)}
        assert all(text == f"${{{option}:-}}" for option, text in given.items()), name
        assert ("env_file" in service) == (service["image"].startswith("quotapool:")), name  # the keys, to nobody else
    assert compose["services"]["proxy"]["env_file"] == ["../.env"]
    assert int(compose["services"]["proxy"]["stop_grace_period"].removesuffix("s")) > drain_seconds({})


def test_alertmanager_reads_the_file_that_amtool_accepts(compose: dict[str, Any], program: Callable[[str], str]):
    service = compose["services"]["alertmanager"]
    (chosen,) = (word.partition("=")[2] for word in service["command"] if word.startswith("--config.file="))
    mounts = dict(volume.split(":")[:2][::-1] for volume in service["volumes"])
    file = ROOT / "config" / mounts[chosen]
    ended = subprocess.run([program("amtool"), "check-config", file], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    known = {rule["alert"] for rule in rules("alerts.yml") if "alert" in rule}
    matchers = [
        matcher
        for rule in yaml.safe_load(file.read_text())["inhibit_rules"]
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]
    ]
    named = {name for matcher in matchers for name in matcher.split('"')[1].split("|")}
    assert named <= known


def rules(file: str) -> list[dict[str, Any]]:
    text = (ROOT / "config" / "prometheus" / file).read_text()
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


# ---- Grafana ----


@pytest.fixture(scope="module")
def grafana(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["grafana"]


def outside(service: dict[str, Any], path: str) -> Path:
    """What is mounted at `path` of the container."""
    for volume in service["volumes"]:
        source, target = volume.split(":")[:2]
        if path == target or path.startswith(f"{target}/"):
            return ROOT / "config" / source / path.removeprefix(target).lstrip("/")
    raise AssertionError(f"nothing is mounted at {path}")


def test_grafana_finds_its_prometheus_and_all_dashboards(compose: dict[str, Any], grafana: dict[str, Any]):
    provisioning = outside(grafana, grafana["environment"]["GF_PATHS_PROVISIONING"])
    (sources,) = (yaml.safe_load(file.read_text()) for file in (provisioning / "datasources").iterdir())
    (boards,) = (yaml.safe_load(file.read_text()) for file in (provisioning / "dashboards").iterdir())

    places = {source["type"]: source["url"] for source in sources["datasources"]}
    assert places == {"prometheus": "http://prometheus:9090", "alertmanager": "http://alertmanager:9093"}
    for name, url in places.items():
        port = url.rpartition(":")[2]
        assert name in compose["services"]
        assert [each for each in compose["services"][name]["ports"] if each.endswith(f":{port}")]
    (provider,) = boards["providers"]
    folder = outside(grafana, provider["options"]["path"])
    assert {file.name for file in folder.glob("*.json")} == {file.name for file in DASHBOARDS}
    home = outside(grafana, grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.name == "overview.json"
    assert home.is_file()


def test_grafanas_scrape_interval_is_prometheus_own(grafana: dict[str, Any]):
    provisioning = outside(grafana, grafana["environment"]["GF_PATHS_PROVISIONING"])
    sources = yaml.safe_load((provisioning / "datasources" / "quotapool.yaml").read_text())["datasources"]
    config = yaml.safe_load((ROOT / "config" / "prometheus" / "compose.yml").read_text())
    assert sources[0]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


@pytest.mark.parametrize("given", ["", "chosen-by-the-operator"])
def test_grafana_has_no_password_that_others_know(grafana: dict[str, Any], tmp_path: Path, given: str):
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    started = tmp_path / "run.sh"  # says which password Grafana reads, and what else it is told
    started.write_text('#!/bin/sh\necho "reads: $(cat "$GF_SECURITY_ADMIN_PASSWORD__FILE") ${GRAFANA_PASSWORD-}"\n')
    started.chmod(0o755)
    script = grafana["command"][0].replace("$$", "$").replace("/var/lib/grafana", str(tmp_path))
    script = script.replace("/run.sh", str(started))

    def up(password: str) -> list[str]:
        environment = {"PATH": os.environ["PATH"], "GRAFANA_PASSWORD": password}
        command = [*grafana["entrypoint"], script]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return ended.stdout.split("\n")

    first = up(given)
    password = (tmp_path / "admin-password").read_text().strip()
    assert (tmp_path / "admin-password").stat().st_mode & 0o077 == 0
    if given:
        assert password == given
        assert first == [f"reads: {given} ", ""]
    else:
        assert len(password) == 24
        assert first == [f"Grafana: http://127.0.0.1:3000, user admin, password {password}", f"reads: {password} ", ""]
    assert up("another") == [f"reads: {password} ", ""]  # it is printed once, and stays


# ---- Kubernetes ----


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def document(file: str, kind: str) -> dict[str, Any]:
    (found,) = (doc for doc in documents(ROOT / "config" / "kubernetes" / file) if doc["kind"] == kind)
    return found


def drain_seconds(config: dict[str, Any]) -> int:
    """`drain_timeout` of a configuration, in seconds; its default is 25 s."""
    return int(config.get("drain_timeout", "25s").removesuffix("s"))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_the_manifests_are_valid_kubernetes(file: Path, version: str):
    found = documents(file)
    assert found
    for doc in found:
        kubernetes_validate.validate(doc, version, strict=True)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_no_container_of_ours_may_become_root_or_write_to_its_root(file: Path):
    for doc in documents(file):
        if "template" not in doc.get("spec", {}):
            continue
        pod = doc["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            if container["name"] == "app":  # the reader's own
                continue
            security = pod.get("securityContext", {}) | container["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_the_sidecar_starts_before_the_app_and_outlives_it():
    pod = document("sidecar.yaml", "Deployment")["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    config = yaml.safe_load(document("sidecar.yaml", "ConfigMap")["data"]["quotapool.yaml"])

    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert pod["terminationGracePeriodSeconds"] > drain_seconds(config)
    assert "lifecycle" not in sidecar


def test_the_sidecar_serves_its_pod_on_loopback_and_the_kubelet_on_all_interfaces():
    template = document("sidecar.yaml", "Deployment")["spec"]["template"]
    (sidecar,) = template["spec"]["initContainers"]
    (app,) = template["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in sidecar["env"] if "value" in entry}

    assert environment == {
        "QUOTAPOOL_CONFIG": "/etc/quotapool/quotapool.yaml",
        "QUOTAPOOL_LISTEN": "127.0.0.1:18080",
        "QUOTAPOOL_ADMIN_LISTEN": "0.0.0.0:19090",
    }
    assert sidecar["ports"] == [{"name": "metrics", "containerPort": 19090}]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "19090"
    assert {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:18080/v1"} in app["env"]


def test_all_replicas_share_one_store_and_may_reach_it():
    store = document("store.yaml", "Service")["metadata"]["name"]
    policy = document("store.yaml", "NetworkPolicy")["spec"]
    (admitted,) = policy["ingress"][0]["from"]
    valkey = document("store.yaml", "StatefulSet")["spec"]
    (container,) = valkey["template"]["spec"]["containers"]

    assert valkey["replicas"] == 1
    (script,) = container["args"]
    assert {"maxmemory-policy noeviction", "appendonly yes", 'requirepass "$REDISCLI_AUTH"'} <= set(script.splitlines())
    for file in ("sidecar.yaml", "deployment.yaml"):
        deployment = document(file, "Deployment")["spec"]
        config = yaml.safe_load(document(file, "ConfigMap")["data"]["quotapool.yaml"])
        assert deployment["replicas"] > 1
        assert config["redis"] == f"redis://:${{STORE_PASSWORD}}@{store}:6379/0"
        labels = deployment["template"]["metadata"]["labels"]
        assert admitted["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_shared_proxy_has_client_keys_and_time_to_drain():
    pod = document("deployment.yaml", "Deployment")["spec"]["template"]["spec"]
    config = yaml.safe_load(document("deployment.yaml", "ConfigMap")["data"]["quotapool.yaml"])
    (container,) = pod["containers"]
    (clients,) = document("deployment.yaml", "Service")["spec"]["ports"]

    assert config["clients"]
    assert clients["targetPort"] == "clients"  # the operators' port is not part of the Service
    hesitation = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > hesitation + drain_seconds(config)


@pytest.mark.parametrize("file", ["sidecar.yaml", "deployment.yaml"])
def test_pool_keys_come_from_a_mounted_secret_that_no_manifest_contains(file: str):
    config = yaml.safe_load(document(file, "ConfigMap")["data"]["quotapool.yaml"])
    pod = document(file, "Deployment")["spec"]["template"]["spec"]
    (container,) = (c for c in [*pod.get("initContainers", []), *pod["containers"]] if c["name"] == "quotapool")
    (secret,) = (volume for volume in pod["volumes"] if "secret" in volume)
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == secret["name"])

    assert Path(config["keys_file"]).parent == Path(mount["mountPath"])
    assert mount["readOnly"] is True
    assert "Secret" not in {doc["kind"] for doc in documents(ROOT / "config" / "kubernetes" / file)}


def test_the_pod_monitor_finds_all_pods_of_ours_and_their_port():
    spec = document("podmonitor.yaml", "PodMonitor")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    for file in ("deployment.yaml", "sidecar.yaml"):
        template = document(file, "Deployment")["spec"]["template"]
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        ports = [port for one in [*pod.get("initContainers", []), *pod["containers"]] for port in one.get("ports", [])]
        assert [port for port in ports if port["name"] == endpoint["port"]]


def test_the_pod_monitor_is_the_charts_but_for_names(helm: Helm):
    plain = document("podmonitor.yaml", "PodMonitor")
    charts = helm.template(over(LEAST, {"podMonitor": {"enabled": True}})).one("PodMonitor")
    (of_plain,), (of_chart,) = (one["spec"]["podMetricsEndpoints"] for one in (plain, charts))
    assert plain["apiVersion"] == charts["apiVersion"]
    assert {**of_plain, "relabelings": []} == {**of_chart, "relabelings": []}
    for endpoint in (of_plain, of_chart):
        (job,) = (one for one in endpoint["relabelings"] if one["targetLabel"] == "job")
        assert job["replacement"].startswith("quotapool/")


def test_the_rules_for_the_operator_are_those_of_config_prometheus():
    made = document("prometheusrule.yaml", "PrometheusRule")
    originals = [
        yaml.safe_load((ROOT / "config" / "prometheus" / file).read_text()) for file in ("alerts.yml", "recording.yml")
    ]
    assert made["spec"]["groups"] == [group for original in originals for group in original["groups"]]


def mebibytes(size: str) -> int:
    assert size.endswith("Mi")
    return int(size.removesuffix("Mi"))


@pytest.mark.parametrize("file", ["sidecar.yaml", "deployment.yaml"])
def test_the_memory_limits_follow_from_the_formula_of_the_docs(file: str):
    """docs/sizing.md, "Memory": 1,000 keys, 20 models, one worker and a shared store."""
    keys, models, workers = 1_000, 20, 1
    series = 6 * keys * models
    supervisor, worker, files = 90 + 0.006 * keys, 75 + 0.006 * keys + 0.001 * series, 1 + 0.00025 * series
    without_traffic = 1.5 * (supervisor + workers * (worker + files))
    streams = 25  # a thousand

    pod = document(file, "Deployment")["spec"]["template"]["spec"]
    config = yaml.safe_load(document(file, "ConfigMap")["data"]["quotapool.yaml"])
    (container,) = (c for c in [*pod.get("initContainers", []), *pod["containers"]] if c["name"] == "quotapool")
    (tmp,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "tmp")

    assert config.get("workers", 1) == workers
    assert without_traffic + streams < mebibytes(container["resources"]["limits"]["memory"])
    assert workers * files < mebibytes(tmp["sizeLimit"])


def test_the_formula_and_its_examples_are_in_the_docs():
    page = (ROOT / "docs" / "sizing.md").read_text().partition("## Memory")[2].partition("\n## ")[0]
    assert all(f"| {text} |" in page for text in ("90 + 0.006 · K", "75 + 0.006 · K + 0.001 · S", "1 + 0.00025 · S"))
    row = re.compile(
        r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (key|pool) \| ([\d,]+) MiB( with a shared store)? \|$", re.MULTILINE
    )
    examples = row.findall(page)
    assert len(examples) == 3
    for keys, models, workers, detail, stated, shared in examples:
        pool, per_worker = int(keys.replace(",", "")), int(workers)
        series = 6 * int(models) * (pool if detail == "key" else 1)
        worker = 75 + 0.006 * pool + 0.001 * series + 1 + 0.00025 * series
        store = 0 if shared else 10 + 0.001 * pool * int(models)
        limit = 1.5 * (90 + 0.006 * pool + per_worker * worker + store)
        assert abs(limit - int(stated.replace(",", ""))) < 10, keys


# ---- one set of figures for compose, the manifests and the chart ----


def test_every_probe_waits_longer_than_the_second_that_is_kubernetes_default():
    probes = [
        container[probe]
        for file in MANIFESTS
        for doc in documents(file)
        if (pod := doc.get("spec", {}).get("template", {}).get("spec"))
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in container
    ]
    assert len(probes) == 3 + 3 + 2
    assert all(probe["timeoutSeconds"] >= 5 for probe in probes)


def test_tmp_in_compose_holds_the_counters_of_a_thousand_keys_and_twenty_models(compose: dict[str, Any]):
    """docs/operations.md: 1 + 0.00025 · 6 · 1,000 · 20 = 31 MiB, twice."""
    (tmp,) = compose["services"]["proxy"]["tmpfs"]
    assert int(re.search(r"size=(\d+)m", tmp)[1]) >= 2 * 31


@pytest.mark.parametrize("file", ["sidecar.yaml", "deployment.yaml"])
def test_the_manifests_have_the_memory_that_the_chart_computes(file: str, helm: Helm):
    """For 1,000 keys, 20 models and a shared store, as their comments say."""
    chart = helm.template(
        over(LEAST, {"sizing": {"keys": 1_000}, "valkey": {"enabled": True, "existingSecret": "quotapool-store"}})
    )
    pod = document(file, "Deployment")["spec"]["template"]["spec"]
    (container,) = (c for c in [*pod.get("initContainers", []), *pod["containers"]] if c["name"] == "quotapool")
    sizes = {v["name"]: v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if "emptyDir" in v}
    (store,) = document("store.yaml", "StatefulSet")["spec"]["template"]["spec"]["containers"]
    (charts,) = chart.one("StatefulSet", "quotapool-valkey")["spec"]["template"]["spec"]["containers"]

    assert container["resources"]["limits"] == chart.container["resources"]["limits"]
    assert container["resources"]["requests"]["memory"] == chart.container["resources"]["requests"]["memory"]
    assert {f"quotapool-{name}": size for name, size in sizes.items()} == {
        v["name"]: v["emptyDir"]["sizeLimit"] for v in chart.pod["spec"]["volumes"] if "emptyDir" in v
    }
    for part in ("image", "command", "args", "resources", "securityContext", "readinessProbe", "livenessProbe"):
        assert store[part] == charts[part], part
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        wanted = {name: value for name, value in chart.container[probe].items() if name != "failureThreshold"}
        assert wanted.items() <= container[probe].items()
