"""The Helm chart around its pods: who reaches what, what Prometheus sees, how it scales."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.fakes.grafana import DASHBOARDS
from tests.fakes.helm import CASES, CHART, EVERYTHING, LEAST, Helm, Rendered, labels_fit, over

ROOT = Path(__file__).parents[2]


# ---- who reaches what ----


def test_the_service_has_the_clients_port_only(render: Callable[..., Rendered]):
    (port,) = render().one("Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8080, "clients")
    assert {"name": "clients", "containerPort": 8080} in render().container["ports"]


def test_the_operators_port_is_served_inside_the_cluster_only(render: Callable[..., Rendered]):
    admin = render(EVERYTHING).one("Service", "quotapool-admin")["spec"]
    assert admin["type"] == "ClusterIP"
    assert [port["targetPort"] for port in admin["ports"]] == ["metrics"]
    assert render(EVERYTHING).one("Service")["spec"]["type"] == "LoadBalancer"


def test_the_operators_port_knows_the_names_of_its_service(render: Callable[..., Rendered]):
    values = {"adminService": {"enabled": True}, "config": {"allowed_hosts": ["mine.example.com"]}}
    assert render(values).config["allowed_hosts"] == [
        *("mine.example.com", "quotapool-admin", "quotapool-admin.llm"),
        *("quotapool-admin.llm.svc", "quotapool-admin.llm.svc.cluster.local"),
    ]
    assert "allowed_hosts" not in render().config


def test_selectors_select_the_pods_they_mean_and_no_others(render: Callable[..., Rendered]):
    rendered = render(EVERYTHING)
    proxy = rendered.pod["metadata"]["labels"]
    store = rendered.one("StatefulSet", "quotapool-valkey")["spec"]["template"]["metadata"]["labels"]
    selectors = {
        "deployment": (rendered.one("Deployment")["spec"]["selector"], proxy, store),
        "budget": (rendered.one("PodDisruptionBudget")["spec"]["selector"], proxy, store),
        "monitor": (rendered.one("PodMonitor")["spec"]["selector"], proxy, store),
        "policy": (rendered.one("NetworkPolicy")["spec"]["podSelector"], proxy, store),
        "service": ({"matchLabels": rendered.one("Service")["spec"]["selector"]}, proxy, store),
        "store": (rendered.one("StatefulSet", "quotapool-valkey")["spec"]["selector"], store, proxy),
        "store's service": (
            {"matchLabels": rendered.one("Service", "quotapool-valkey")["spec"]["selector"]}, store, proxy
        ),
        "store's policy": (rendered.one("NetworkPolicy", "quotapool-valkey")["spec"]["podSelector"], store, proxy),
        "admitted by the store": (
            rendered.one("NetworkPolicy", "quotapool-valkey")["spec"]["ingress"][0]["from"][0]["podSelector"],
            proxy, store,
        ),
    }  # fmt: skip
    for name, (selector, mine, other) in selectors.items():
        assert labels_fit(selector, mine), name
        assert not labels_fit(selector, other), name


def test_two_pools_of_one_namespace_do_not_reach_each_others_store(helm: Helm):
    values = over(LEAST, CASES["bundled store"])
    one, other = helm.template(values, name="one"), helm.template(values, name="other")
    policy = one.one("NetworkPolicy", "one-quotapool-valkey")["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert labels_fit(policy, one.one("Deployment", "one-quotapool")["spec"]["template"]["metadata"]["labels"])
    assert not labels_fit(policy, other.one("Deployment", "other-quotapool")["spec"]["template"]["metadata"]["labels"])


def test_the_network_policy_lets_in_who_is_named_and_out_to_what_is_needed(render: Callable[..., Rendered]):
    closed = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert closed["ingress"] == [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": "clients"}]}]
    assert [port["port"] for rule in closed["egress"] for port in rule["ports"]] == [53, 53, 443]

    clients, operators = render(EVERYTHING).one("NetworkPolicy")["spec"]["ingress"]
    assert clients["from"] == EVERYTHING["networkPolicy"]["clients"]
    assert operators == {
        "from": EVERYTHING["networkPolicy"]["operators"],
        "ports": [{"protocol": "TCP", "port": "metrics"}],
    }


def test_a_long_release_name_leaves_room_for_what_kubernetes_adds(helm: Helm):
    values = over(LEAST, CASES["everything"])
    rendered = helm.template(values, name="a-release-whose-name-has-the-53-characters-helm-allow")
    (store,) = (it["metadata"]["name"] for it in rendered.objects if it["kind"] == "StatefulSet")
    assert len(store) + len("-0123456789") <= 63  # the label controller-revision-hash
    assert all(len(it["metadata"]["name"]) <= 63 for it in rendered.objects)


def test_labels_of_yours_do_not_take_the_place_of_those_that_select(render: Callable[..., Rendered]):
    mine = {"team": "llm", "app.kubernetes.io/name": "other"}
    rendered = render({"podLabels": mine})
    labels = rendered.pod["metadata"]["labels"]
    assert (labels["team"], labels["app.kubernetes.io/name"]) == ("llm", "quotapool")
    assert rendered.text.count("app.kubernetes.io/name: other") == 0


# ---- watching and scaling ----


def test_the_rules_of_the_chart_are_those_of_config_prometheus():
    for file in ("alerts.yml", "recording.yml"):
        assert (CHART / "rules" / file).read_bytes() == (ROOT / "config" / "prometheus" / file).read_bytes()
    assert {file.name for file in (CHART / "rules").iterdir()} == {"alerts.yml", "recording.yml"}


def test_promtool_accepts_the_rendered_rules_and_all_are_there(
    render: Callable[..., Rendered], program: Callable[[str], str], tmp_path: Path
):
    spec = render(EVERYTHING).one("PrometheusRule")["spec"]
    originals = [
        yaml.safe_load((ROOT / "config" / "prometheus" / f).read_text()) for f in ("alerts.yml", "recording.yml")
    ]
    assert spec["groups"] == [group for original in originals for group in original["groups"]]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(spec))
    ended = subprocess.run([program("promtool"), "check", "rules", str(file)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_sees_one_job_for_one_pool_with_the_name_that_the_rules_want(helm: Helm):
    values = over(over(LEAST, CASES["bundled store"]), {"podMonitor": {"enabled": True}})
    (endpoint,) = helm.template(values, name="prod").one("PodMonitor", "prod-quotapool")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    (job,) = [it["replacement"] for it in endpoint["relabelings"] if it["targetLabel"] == "job"]
    assert job == "quotapool/llm/prod-quotapool"
    alerts = yaml.safe_load((CHART / "rules" / "alerts.yml").read_text())
    jobs = [re.findall(r'\bup{job=~"([^"]*)"}', rule["expr"]) for g in alerts["groups"] for rule in g["rules"]]
    patterns = {pattern for found in jobs for pattern in found}
    assert patterns
    assert all(re.fullmatch(pattern, job) for pattern in patterns)


def test_the_autoscaler_asks_for_metrics_that_exist(render: Callable[..., Rendered]):
    documented = (ROOT / "docs" / "metrics.md").read_text()
    metrics = render(EVERYTHING).one("HorizontalPodAutoscaler")["spec"]["metrics"]
    pods = {it["pods"]["metric"]["name"]: it["pods"]["target"] for it in metrics if it["type"] == "Pods"}
    assert pods == {
        "quotapool_queue_length": {"type": "AverageValue", "averageValue": "500"},
        "quotapool_requests_in_flight": {"type": "AverageValue", "averageValue": "1000"},
    }
    assert all(f"| `{name}` | gauge |" in documented for name in pods)
    assert "replicas" not in render(EVERYTHING).one("Deployment")["spec"]


def test_the_charts_dashboards_are_those_of_config_grafana_and_unchanged_in_their_config_maps(helm: Helm):
    originals = {file.name: file.read_text() for file in DASHBOARDS}
    assert {file.name: file.read_text() for file in (CHART / "dashboards").iterdir()} == originals
    rendered = helm.template(over(LEAST, {"dashboards": {"enabled": True}}))
    found = {}
    for name in originals:
        found |= rendered.one("ConfigMap", f"quotapool-{name.removesuffix('.json')}")["data"]
    assert found == originals


def test_every_file_of_dashboards_becomes_a_config_map(helm: Helm, tmp_path: Path):
    copy = tmp_path / "quotapool"
    subprocess.run(["cp", "-r", str(CHART), str(copy)], check=True)
    (copy / "dashboards" / "Pool_now.json").write_text('{"title": "{{ $labels.job }}"}\n')
    rendered = helm.template(over(LEAST, {"dashboards": {"enabled": True}}), chart=copy)
    found = rendered.one("ConfigMap", "quotapool-pool-now")
    assert found["data"] == {"Pool_now.json": '{"title": "{{ $labels.job }}"}\n'}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
