"""The chart's values: every one is commented, in the schema and in the README; memory follows from keys and models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.helm import CHART, Rendered

ROOT = Path(__file__).parents[2]
MAKER = CHART.parent / "make_copies.py"


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = spec_from_file_location("make_copies", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["make_copies"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- one list of values ----


def test_what_is_made_of_other_files_is_what_they_make(tables: Any):
    for file, text in tables.written().items():
        assert file.read_text() == text, "run `python config/helm/make_copies.py`"


def test_every_value_has_a_comment_and_is_in_the_schema(tables: Any):
    known = set(tables.names(json.loads((CHART / "values.schema.json").read_text())))
    rows = list(tables.values((CHART / "values.yaml").read_text(), known))
    assert len(rows) > 100
    for name, _, comment in rows:
        assert comment, name
        assert name in known or any(other.startswith(f"{name}.") for other in known), name


def test_the_schema_has_nothing_that_is_not_a_value(tables: Any):
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    optional = {"initialDelaySeconds", "successThreshold", "terminationGracePeriodSeconds", "claims"}  # Kubernetes'
    for name in tables.names(json.loads((CHART / "values.schema.json").read_text())):
        at = defaults
        for part in name.removesuffix(".*").split("."):
            if part in optional and part not in at:
                break
            assert part in at, name
            at = at[part]


# ---- memory ----


def mebibytes(size: str) -> int:
    assert size.endswith("Mi")
    return int(size.removesuffix("Mi"))


SHARED = {"config": {"redis": "redis://redis:6379/0"}}

# keys, models, workers, detail, shared store -> limit, request, /tmp, state; by hand, from the formula of
# docs/operations.md: 1.5 * (supervisor + W * (worker + files) + store) + 256 to the next 32; 2 * files to the next 16.
SIZES = [
    # S = 12,000; 90.6 + 87.6 + 4 + store 10 + 2 + 210 = 404.2; 606.3 + 256 = 862.3; state 64 + 3 * 222 = 730
    (100, 20, 1, "key", False, 864, 416, 16, 768),
    # S = 120,000; 96 + 201 + 31 = 328; 492 + 256 = 748
    (1_000, 20, 1, "key", True, 768, 352, 64, 64),
    # S = 120; 270 + 4 * (255.12 + 1.03) = 1294.6; 1941.9 + 256 = 2197.9; 8.24
    (30_000, 20, 4, "pool", True, 2208, 1312, 16, 64),
    # S = 600; 90.12 + 75.72 + 1.15 + store 10 + 0.1 + 30 = 207.09; 310.6 + 256 = 566.6; state 64 + 3 * 40.1 = 184.3
    (20, 5, 1, "key", False, 576, 224, 16, 192),
]


@pytest.mark.parametrize(("keys", "models", "workers", "detail", "shared", "limit", "request_", "tmp", "state"), SIZES)
def test_memory_and_space_follow_from_keys_models_and_workers(
    keys, models, workers, detail, shared, limit, request_, tmp, state, render: Callable[..., Rendered]
):
    config = {"workers": workers, "metrics": {"detail": detail}, **(SHARED["config"] if shared else {})}
    rendered = render({"sizing": {"keys": keys, "models": models}, "config": config})
    resources = rendered.container["resources"]
    volumes = {volume["name"]: volume.get("emptyDir") for volume in rendered.pod["spec"]["volumes"]}

    assert resources["limits"] == {"memory": f"{limit}Mi"}
    assert resources["requests"] == {"cpu": "250m", "memory": f"{request_}Mi"}
    assert volumes["quotapool-tmp"] == {"medium": "Memory", "sizeLimit": f"{tmp}Mi"}
    assert volumes["quotapool-state"] == {"sizeLimit": f"{state}Mi"}


@pytest.mark.parametrize(
    ("size", "limit", "request_"),
    [
        # 90.12 + 75.72 + 32 + 1.15 + store 40.1 + 512 = 751.09; 1126.6 + 256 = 1382.6
        ("512MiB", 1408, 768),
        ("0.5 GiB", 1408, 768),
        (536_870_912, 1408, 768),
        # 239.09 + 953.67 = 1192.76; 1789.1 + 256 = 2045.1
        ("1GB", 2048, 1216),
        # 239.09 + 256 = 495.09; 742.6 + 256 = 998.6
        (None, 1024, 512),
    ],
)
def test_a_cache_has_room_of_its_own(size, limit, request_, render: Callable[..., Rendered]):
    cache = {"models": ["gpt-4o*"], **({} if size is None else {"max_size": size})}
    resources = render({"sizing": {"keys": 20, "models": 5}, "config": {"cache": cache}}).container["resources"]
    assert resources["limits"] == {"memory": f"{limit}Mi"}
    assert resources["requests"]["memory"] == f"{request_}Mi"


def test_a_cache_that_keeps_no_model_takes_none(render: Callable[..., Rendered]):
    values = {"sizing": {"keys": 20, "models": 5}, "config": {"cache": {"max_size": "8GiB"}}}
    assert render(values).container["resources"]["limits"] == {"memory": "576Mi"}  # of SIZES


def test_a_size_that_is_given_is_taken(render: Callable[..., Rendered]):
    given = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi", "cpu": "4"}}
    rendered = render({"resources": given, "tmp": {"sizeLimit": "1Gi"}, "state": {"sizeLimit": "2Gi"}})
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in rendered.pod["spec"]["volumes"][-2:]}
    assert rendered.container["resources"] == given
    assert sizes == {"quotapool-state": "2Gi", "quotapool-tmp": "1Gi"}


def test_the_store_has_room_for_its_ledger_twice(render: Callable[..., Rendered]):
    """1,000 keys, 20 models: 10 + 20 + 210 = 240 MiB."""
    values = {"valkey": {"enabled": True, "existingSecret": "v"}, "sizing": {"keys": 1_000}}
    (container,) = render(values).one("StatefulSet", "quotapool-valkey")["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "limits": {"memory": "480Mi"},
        "requests": {"cpu": "100m", "memory": "256Mi"},
    }


def test_the_formula_of_the_chart_is_that_of_the_docs():
    page = (ROOT / "docs" / "sizing.md").read_text()
    readme = (CHART / "README.md").read_text()
    for coefficient in ("90 + 0.006 · K", "75 + 0.006 · K + 0.001 · S", "1 + 0.00025 · S"):
        assert coefficient in page
        assert coefficient in readme
    assert "1,000 keys and 20 models with a shared store: limit 768 MiB, `/tmp` 64 MiB." in readme  # of SIZES
