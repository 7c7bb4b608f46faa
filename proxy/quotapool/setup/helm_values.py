"""Values for the Helm chart in config/helm/quotapool, from a configuration."""

from __future__ import annotations

from typing import Any, Final

import yaml

from quotapool.setup.needs import Needs

# What the chart sets itself: addresses and paths in its container, the store, where the secrets are.
_OF_THE_CHART: Final = frozenset({"listen", "admin_listen", "state_dir", "keys", "keys_file", "redis", "admin_token"})
_SECRET: Final = "quotapool-keys"  # noqa: S105  a name


def helm_values(values: dict[str, Any], needs: Needs) -> str:
    """The values file. `values`: the configuration as it is written, with its ${NAME}s."""
    config = {name: value for name, value in values.items() if name not in _OF_THE_CHART}
    chart: dict[str, Any] = {
        "replicaCount": 1,
        "config": config,
        "keys": {"existingSecret": _SECRET, "secretKey": "OPENAI_API_KEYS"},
        "valkey": {"enabled": not values.get("redis")},
    }
    if values.get("redis"):
        chart["externalRedis"] = {"existingSecret": "quotapool-redis", "secretKey": "url"}
    return _HEAD + _about_variables(needs) + yaml.safe_dump(chart, sort_keys=False, width=120, allow_unicode=True)


def _about_variables(needs: Needs) -> str:
    others = [name for name in needs.variables if name != "OPENAI_API_KEYS"]
    return f"# The configuration also names these variables: {', '.join(others)}\n" if others else ""


_HEAD: Final = f"""\
# Written by `quotapool init --helm`, for the chart config/helm/quotapool. First the Secret, with one key a line:
#   kubectl create secret generic {_SECRET} --from-file=OPENAI_API_KEYS=quotapool.keys
#   helm install quotapool config/helm/quotapool --values values.yaml
"""
