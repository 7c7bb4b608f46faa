"""What people read of the Helm chart works: the README's commands and sidecar, the notes after an installation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.fakes.helm import CASES, CHART, LEAST, Helm, labels_fit, over

ROOT = Path(__file__).parents[2]


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
