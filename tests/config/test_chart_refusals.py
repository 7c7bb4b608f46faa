"""What the Helm chart refuses: combinations that cannot work, unknown names, wrong kinds; each with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.helm import CASES, Helm, Refused, over

ROOT = Path(__file__).parents[2]


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
