"""The Helm chart: what it renders is valid, fits the proxy and holds no secret; what cannot work is refused."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from quotapool import __version__
from quotapool.settings.load import load
from quotapool.settings.model import Settings
from quotapool.settings.transfer import RESTART_ONLY

from tests.fakes.helm import CHART, KUBERNETES, LEAST, Helm, Refused, Rendered, over

ROOT = Path(__file__).parents[2]
EVERYTHING = yaml.safe_load(Path(__file__).with_name("everything.yaml").read_text())
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
# What the Secrets of a test hold; the variables of a pod come from here.
SECRETS = {
    "quotapool-keys": {"OPENAI_API_KEYS": "sk-aaaaaaaaaaaaaaaaaaaaaaaa\nsk-bbbbbbbbbbbbbbbbbbbbbbbb\n"},
    "quotapool-clients": {"APP_KEY": "qp-app-key-0123456789abcdef"},
    "quotapool-admin": {"admin-token": "admin-token-0123456789abcdef"},
    "quotapool-master": {"master-key": "m" * 44},
    "quotapool-redis": {"url": "rediss://pool:store-password@redis:6380/0"},
    "quotapool-valkey": {"valkey-password": "0123456789abcdef"},
    "alerts": {"url": "https://hooks.example.com/alert-secret"},
    "more": {},
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, render: Callable[..., Rendered]) -> Rendered:
    return render(CASES[request.param])


def containers(rendered: Rendered) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(pod spec, container) of everything that runs."""
    for it in rendered.objects:
        if it["kind"] in {"Deployment", "StatefulSet"}:
            pod = it["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield pod, container


# ---- valid ----


def test_helm_lint_finds_nothing(helm: Helm):
    said = helm(
        "lint", "--strict", "--kube-version", KUBERNETES, "--values", "-", str(CHART), given=yaml.safe_dump(LEAST)
    )
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "WARNING" not in said


def test_helm_lint_accepts_the_chart_as_it_is(helm: Helm):
    assert "0 chart(s) failed" in helm("lint", "--strict", "--kube-version", KUBERNETES, str(CHART))


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_what_is_rendered_is_valid_kubernetes(case: Rendered, version: str):
    for it in case.objects:
        if not it["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(it, version, strict=True)
        assert it["metadata"].get("namespace", "llm") == "llm"
    names = [(it["kind"], it["metadata"]["name"]) for it in case.objects]
    assert len(set(names)) == len(names)


def test_everything_renders_every_kind(render: Callable[..., Rendered]):
    assert render(EVERYTHING).kinds() == {
        *("ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PodDisruptionBudget"),
        *("PodMonitor", "PrometheusRule", "Service", "ServiceAccount", "StatefulSet"),
    }


def test_the_least_renders_one_pod_with_its_configuration_and_nothing_to_pay_for(render: Callable[..., Rendered]):
    kinds = {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"}
    assert render().kinds() == kinds


def test_the_charts_version_is_the_packages():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


# ---- it starts our proxy ----


def environment(rendered: Rendered) -> dict[str, str]:
    """What the container's variables would be, with SECRETS."""
    container, found = rendered.container, {}
    for source in container.get("envFrom", []):
        found |= SECRETS[source["secretRef"]["name"]]
    for entry in container["env"]:
        if "value" in entry:
            found[entry["name"]] = entry["value"]
        else:
            reference = entry["valueFrom"]["secretKeyRef"]
            found[entry["name"]] = SECRETS[reference["name"]][reference["key"]]
    return found


def load_as_mounted(rendered: Rendered, place: Path) -> Settings:
    """The configuration as `quotapool serve` in this pod would load it: its volumes are laid out below `place`."""
    volumes = {volume["name"]: volume for volume in rendered.pod["spec"]["volumes"]}
    text = ""
    for mount in rendered.container["volumeMounts"]:
        folder = place / mount["mountPath"].strip("/")
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            text = rendered.one("ConfigMap", volume["configMap"]["name"])["data"]["quotapool.yaml"]
        for source in volume.get("projected", {}).get("sources", []):
            folder.mkdir(parents=True, exist_ok=True)
            for item in source["secret"]["items"]:
                (folder / item["path"]).write_text(SECRETS[source["secret"]["name"]][item["key"]])
    variables = environment(rendered)
    assert variables["QUOTAPOOL_CONFIG"] == "/etc/quotapool/quotapool.yaml"
    file = place / "quotapool.yaml"
    file.write_text(text.replace("/run/secrets", f"{place}/run/secrets"))
    return load(None, env={**variables, "QUOTAPOOL_CONFIG": str(file)})


@pytest.mark.parametrize("name", [name for name in CASES if name != "sidecar"])
def test_the_proxy_loads_the_rendered_configuration(name: str, render: Callable[..., Rendered], tmp_path: Path):
    settings = load_as_mounted(render(CASES[name]), tmp_path)

    assert len(settings.keys) == 2
    assert settings.bind_problem() is None
    assert settings.warnings == ()
    assert (settings.listen.port, settings.admin_listen.port) == (8080, 9090)
    assert not settings.listen.is_loopback
    assert str(settings.state_dir) == "/var/lib/quotapool"


def test_everything_reaches_the_settings(render: Callable[..., Rendered], tmp_path: Path):
    settings = load_as_mounted(render(EVERYTHING), tmp_path)

    assert settings.redis is not None
    assert settings.redis.get_secret_value() == "redis://:0123456789abcdef@quotapool-valkey:6379/0"
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == "admin-token-0123456789abcdef"
    assert settings.master_key_file is not None
    assert settings.master_key_file.read_text() == "m" * 44
    assert settings.workers == 4
    assert settings.drain_timeout == 90
    assert settings.limits.default.tpm == 2_000_000
    assert settings.requests_kept == 1_000_000


def test_a_store_of_yours_is_used_by_all_replicas(render: Callable[..., Rendered], tmp_path: Path):
    settings = load_as_mounted(render(CASES["external store"]), tmp_path)
    assert settings.redis is not None
    assert settings.redis.get_secret_value() == "rediss://pool:store-password@redis:6380/0"


# ---- secrets ----


def test_no_secret_is_rendered(case: Rendered):
    assert "Secret" not in case.kinds()
    for secrets in SECRETS.values():
        for secret in secrets.values():
            assert secret.strip() not in case.text


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"keys": [{"id": "alpha", "secret": "sk-0123456789abcdefghij"}]}, "config.keys[0].secret"),
        ({"clients": [{"id": "app", "key": "0123456789abcdef"}]}, "config.clients[0].key"),
        ({"admin_token": "0123456789abcdef"}, "config.admin_token"),
        ({"redis": "redis://:password@redis:6379/0"}, "config.redis"),
        ({"upstream_proxy": {"https": "http://jane:password@proxy:3128"}}, "config.upstream_proxy.https"),
        ({"alerts": {"targets": [{"url": "mailtos://jane:pw@smtp/?to=a@b"}]}}, "config.alerts.targets[0].url"),
        ({"dashboard": {"oidc": {"client_secret": "0123456789"}}}, "config.dashboard.oidc.client_secret"),
        (
            {"alerts": {"targets": [{"url": "https://hooks.slack.com/services/password"}]}},
            "config.alerts.targets[0].url",
        ),
    ],
)
def test_a_secret_in_the_configuration_is_refused_by_its_place_and_not_repeated(config, place, refusal):
    said = refusal({"config": config})
    assert f"- {place} is a secret, and would be in the ConfigMap" in said
    assert "password" not in said
    assert "0123456789" not in said


def test_a_reference_to_a_secret_is_accepted(render: Callable[..., Rendered]):
    config = {
        "redis": "redis://:${PASSWORD}@redis/0",
        "clients": [{"id": "app", "key": "${APP_KEY}", "labels": {"key": "a label named so"}}],
        "alerts": {
            "targets": [{"url": "mailtos://smtp.example.com?to=ops@example.com"}, {"url": "http://alerts.corp/in"}]
        },
    }
    assert render({"config": config}).config | config == render({"config": config}).config


def test_pods_get_no_token_of_kubernetes_and_no_rights(case: Rendered):
    for pod, container in containers(case):
        security = pod["securityContext"] | container["securityContext"]
        assert pod["automountServiceAccountToken"] is False
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] in {10001, 999}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


# ---- updates and changes ----


@pytest.mark.parametrize(
    ("drain", "grace"),
    [(None, 5 + 25 + 15), ("1m30s", 5 + 90 + 15), (600, 5 + 600 + 15), ("500ms", 5 + 1 + 15), ("1h", 5 + 3600 + 15)],
)
def test_a_pod_has_time_to_leave_the_services_and_to_drain(drain, grace, render: Callable[..., Rendered]):
    rendered = render({"config": {} if drain is None else {"drain_timeout": drain}})
    assert rendered.container["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert rendered.pod["spec"]["terminationGracePeriodSeconds"] == grace


def test_an_old_pod_goes_only_when_the_new_one_serves(render: Callable[..., Rendered]):
    strategy = render().one("Deployment")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    container = render().container
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_every_probe_waits_longer_than_the_second_that_is_kubernetes_default(case: Rendered):
    probes = [c[p] for _, c in containers(case) for p in ("startupProbe", "readinessProbe", "livenessProbe") if p in c]
    assert all(probe["timeoutSeconds"] >= 5 for probe in probes)


def pod_template(rendered: Rendered) -> str:
    return json.dumps(rendered.pod, sort_keys=True)


@pytest.mark.parametrize(
    "change",
    [{"limits": {"default": {"rpm": 5}}}, {"queue": {"max_wait": "5s"}}, {"metrics": {"models": ["a"]}}],
    ids=lambda change: next(iter(change)),
)
def test_what_the_proxy_reloads_restarts_no_pod(change, render: Callable[..., Rendered]):
    assert render({"config": change}).config != render().config
    assert pod_template(render({"config": change})) == pod_template(render())


@pytest.mark.parametrize(
    "change",
    [{"log": {"level": "debug"}}, {"pool": "other"}, {"tls": {"cert_file": "/a", "key_file": "/b"}}],
    ids=lambda change: next(iter(change)),
)
def test_what_needs_a_restart_restarts_the_pods(change, render: Callable[..., Rendered]):
    assert pod_template(render({"config": change})) != pod_template(render())


def test_a_new_certificate_path_restarts_no_pod(render: Callable[..., Rendered]):
    one = render({"config": {"tls": {"cert_file": "/a", "key_file": "/b"}}})
    other = render({"config": {"tls": {"cert_file": "/c", "key_file": "/d"}}})
    assert pod_template(one) == pod_template(other)


def test_the_chart_knows_every_option_that_needs_a_restart():
    text = (CHART / "templates" / "_config.tpl").read_text()
    (listed,) = re.findall(r'define "quotapool.restartOptions" -}}\n(.+?)\n{{- end', text)
    assert set(listed.split()) == RESTART_ONLY


def test_files_are_mounted_so_that_changes_reach_them(case: Rendered):
    assert "subPath:" not in case.text


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


def labels_fit(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector["matchLabels"].items() <= labels.items()


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
    (down,) = [r["expr"] for g in alerts["groups"] for r in g["rules"] if 'up{job=~"' in r["expr"]]
    assert re.fullmatch(down.split('"')[1], job)


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


def test_every_file_of_dashboards_becomes_a_config_map(helm: Helm, tmp_path: Path):
    copy = tmp_path / "quotapool"
    subprocess.run(["cp", "-r", str(CHART), str(copy)], check=True)
    (copy / "dashboards").mkdir()
    (copy / "dashboards" / "Pool_now.json").write_text('{"title": "{{ $labels.job }}"}\n')
    rendered = helm.template(over(LEAST, {"dashboards": {"enabled": True}}), chart=copy)
    found = rendered.one("ConfigMap", "quotapool-pool-now")
    assert found["data"] == {"Pool_now.json": '{"title": "{{ $labels.job }}"}\n'}
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


# ---- the README's examples ----


def test_the_readmes_first_command_installs_something_that_works(helm: Helm):
    (values,) = re.findall(r"--values - <<VALUES\n(.*?)\nVALUES\n", (CHART / "README.md").read_text(), re.DOTALL)
    rendered = helm.template(yaml.safe_load(re.sub(r"\$\(.*\)", "0" * 63 + "1", values)))
    assert rendered.config["clients"] == [{"id": "app", "key_hash": "0" * 63 + "1"}]
    assert rendered.one("Deployment")["spec"]["replicas"] == 2
    assert rendered.one("StatefulSet", "quotapool-valkey")


def test_the_readmes_sidecar_stands_in_a_pod_of_another_chart(helm: Helm, tmp_path: Path):
    """The README's three files, with a pod around the last one."""
    chart_file, values, pod = (
        re.search(rf"# {name}\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)[1]
        for name in ("Chart.yaml", "values.yaml", "templates/deployment.yaml")
    )
    parent = tmp_path / "app"
    (parent / "templates").mkdir(parents=True)
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: app\nversion: 1.0.0\n" + chart_file)
    (parent / "values.yaml").write_text(values)
    head = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec:\n  selector: {matchLabels: {app: app}}\n"
    )
    (parent / "templates" / "deployment.yaml").write_text(head + pod)
    subprocess.run(["cp", "-r", str(CHART), str(tmp_path / "quotapool")], check=True)
    helm("dependency", "update", "--skip-refresh", str(parent))

    rendered = helm.template({"quotapool": {"podMonitor": {"enabled": True}}}, chart=parent, name="app")
    for it in rendered.objects:
        if it["kind"] != "PodMonitor":
            kubernetes_validate.validate(it, kubernetes_validate.latest_version(), strict=True)
    assert rendered.kinds() == {"ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "Service", "StatefulSet"}
    template = rendered.one("Deployment", "app")["spec"]["template"]
    (sidecar,) = template["spec"]["initContainers"]
    (app,) = template["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in sidecar["env"]}
    assert sidecar["restartPolicy"] == "Always"
    assert "lifecycle" not in sidecar
    assert (env["QUOTAPOOL_LISTEN"], env["QUOTAPOOL_ADMIN_LISTEN"]) == ("127.0.0.1:18080", "0.0.0.0:19090")
    assert sidecar["ports"] == [{"name": "metrics", "containerPort": 19090}]
    assert {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:18080/v1"} in app["env"]
    assert template["spec"]["terminationGracePeriodSeconds"] > 25
    mounted = {mount["name"] for mount in sidecar["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    labels = template["metadata"]["labels"]
    assert labels_fit(rendered.one("PodMonitor", "app-quotapool")["spec"]["selector"], labels)
    policy = rendered.one("NetworkPolicy", "app-quotapool-valkey")["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert labels_fit(policy, labels)


# ---- what helm says afterwards ----


@pytest.fixture(scope="module")
def notes(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], str]:
    """NOTES.txt, which `helm template` leaves out: moved into a ConfigMap of a copy."""
    copy = tmp_path_factory.mktemp("chart") / "quotapool"
    subprocess.run(["cp", "-r", str(CHART), str(copy)], check=True)
    text = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "_notes.tpl").write_text('{{- define "notes" -}}\n' + text + "{{- end }}")
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n"
    (copy / "templates" / "notes.yaml").write_text(head + '  text: {{ include "notes" . | toJson }}\n')
    return lambda values: str(helm.template(over(LEAST, values), chart=copy).one("ConfigMap", "notes")["data"]["text"])


def test_the_notes_tell_the_base_url_and_which_secrets_to_make(notes: Callable[[dict[str, Any]], str]):
    said = notes(CASES["bundled store"])
    assert "http://quotapool.llm:8080/v1" in said
    assert "create secret generic quotapool-keys --from-file=OPENAI_API_KEYS=keys.txt" in said
    assert 'create secret generic quotapool-valkey --from-literal=valkey-password="$(openssl rand -hex 24)"' in said
    assert "store of its own" not in said


def test_the_notes_warn_of_a_store_that_is_not_shared(notes: Callable[[dict[str, Any]], str]):
    assert "This pod has a store of its own" in notes({})
    assert "quotapool-valkey" not in notes({})
    assert "Each sidecar has a store of its own" in notes({"mode": "sidecar"})


# ---- what is refused ----

SEVERAL: dict[str, Any] = {"replicaCount": 3}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "several without a store": (SEVERAL, "- 3 replicas need a shared store, or each would spend the whole budget"),
    "may become several": ({"autoscaling": {"enabled": True}}, "- 6 replicas need a shared store"),
    "no keys": ({"keys": {"existingSecret": ""}}, "- there are no OpenAI keys: kubectl create secret generic"),
    "no clients": ({"config": {"clients": None}}, "- nobody could call: name clients under config.clients"),
    "two stores": (
        {"valkey": {"enabled": True, "existingSecret": "v"}, "externalRedis": {"existingSecret": "r"}},
        "- valkey.enabled and externalRedis.existingSecret are each a store; leave one",
    ),
    "no password": ({"valkey": {"enabled": True}}, "- valkey.enabled needs a password: kubectl create secret"),
    "the chart's own": ({"config": {"listen": "0.0.0.0:80"}}, "- config.listen is set by the chart"),
    "keys twice": ({"config": {"keys_file": "a"}}, "- config.keys_file and keys.existingSecret are both given"),
    "drain": ({"config": {"drain_timeout": "soon"}}, "- config.drain_timeout must be a duration such as 25s"),
    "workers": ({"config": {"workers": "${W}"}}, "- config.workers must be a number"),
    "Prometheus locked out": (
        {"networkPolicy": {"enabled": True}, "podMonitor": {"enabled": True}},
        "- networkPolicy keeps Prometheus out",
    ),
    "store out of reach": (
        {"networkPolicy": {"enabled": True}, "config": {"redis": "redis://r/0"}},
        "- networkPolicy lets no pod reach the store",
    ),
    "no host": ({"ingress": {"enabled": True}}, "- ingress.enabled needs ingress.hosts"),
    "tokens differ": (
        over(CASES["bundled store"], {"adminService": {"enabled": True}}),
        "- adminService with several replicas needs adminToken.existingSecret",
    ),
    "nothing to scale by": (
        over(CASES["bundled store"], {"autoscaling": {"enabled": True, "queueLength": 0, "requestsInFlight": 0}}),
        "- autoscaling needs one of queueLength, requestsInFlight and cpu",
    ),
    "of no use": (
        {"mode": "sidecar", "ingress": {"enabled": True}},
        "- ingress.enabled does nothing with mode: sidecar",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_work_is_refused_with_the_remedy(name: str, refusal: Callable[..., str]):
    values, message = REFUSED[name]
    assert message in refusal(values)


def test_all_that_is_wrong_is_said_at_once(refusal: Callable[..., str]):
    said = refusal({"replicaCount": 3, "keys": {"existingSecret": ""}, "config": {"clients": None, "listen": "a:1"}})
    assert len(re.findall(r"^- ", said, re.MULTILINE)) == 4


@pytest.mark.parametrize(
    ("values", "name", "nearest"),
    [
        ({"replicas": 3}, "replicas", "replicaCount"),
        ({"image": {"tags": "1"}}, "image.tags", "image.tag"),
        ({"autoscale": {"enabled": True}}, "autoscale", "autoscaling"),
        ({"valkey": {"image": {"repo": "a"}}}, "valkey.image.repo", "valkey.image.repository"),
        ({"externalRedis": {"secretkey": "a"}}, "externalRedis.secretkey", "externalRedis.secretKey"),
        ({"livenessProbe": {"timeout": 5}}, "livenessProbe.timeout", "livenessProbe.timeoutSeconds"),
        ({"x": 1}, "x", ""),
    ],
)
def test_an_unknown_value_is_refused_with_the_nearest(values, name, nearest, refusal: Callable[..., str]):
    assert f"there is no value {name}; the nearest is {nearest}" in refusal(values)


@pytest.mark.parametrize(
    ("values", "name"),
    [({"keys": None}, "keys"), ({"valkey": None}, "valkey"), ({"valkey": {"image": None}}, "valkey.image")],
)
def test_a_group_with_nothing_below_it_is_refused_by_its_name(values, name, refusal: Callable[..., str]):
    assert f"- {name} has nothing below it: leave it out" in refusal(values)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"mode": "daemonset"}, "/mode"),
        ({"replicaCount": "two"}, "/replicaCount"),
        ({"livenessProbe": {"timeoutSeconds": 1}}, "/livenessProbe/timeoutSeconds"),
        ({"keys": {"existingSecret": "Not_A_Name"}}, "/keys/existingSecret"),
        ({"service": {"type": "ExternalName"}}, "/service/type"),
        ({"config": "redis: null"}, "/config"),
        ({"tmp": {"sizeLimit": "64 MB"}}, "/tmp/sizeLimit"),
        ({"listenHost": "127.0.0.1"}, "/listenHost"),
        ({"ingress": {"hosts": ["llm.example.com"]}}, "/ingress/hosts/0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_at_its_place(values, place, refusal: Callable[..., str]):
    assert f"at '{place}'" in refusal(values)


def test_an_empty_installation_is_told_what_it_lacks(helm: Helm):
    with pytest.raises(Refused) as caught:
        helm.template({})
    assert "there are no OpenAI keys" in str(caught.value)
    assert "nobody could call" in str(caught.value)
