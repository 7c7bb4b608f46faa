"""The Helm chart: what it renders is valid, fits the proxy and holds no secret; what cannot work is refused."""

from __future__ import annotations

import json
import re
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

from tests.fakes.helm import CASES, CHART, EVERYTHING, KUBERNETES, LEAST, Helm, Rendered

ROOT = Path(__file__).parents[2]
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
