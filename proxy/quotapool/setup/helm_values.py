"""Values for the Helm chart in config/helm/quotapool, from a configuration."""

from __future__ import annotations

from typing import Any, Final

import yaml

from quotapool.setup.needs import Needs

# What the chart decides: addresses and paths in its container. Secrets come from Secrets.
_OF_THE_CHART: Final = frozenset({"listen", "admin_listen", "state_dir", "keys_file", "admin_token", "redis"})
_OF_FILES: Final = frozenset({"master_key_file"})
_KEYS: Final = "OPENAI_API_KEYS"


def helm_values(values: dict[str, Any], needs: Needs) -> str:
    """The values file. `values`: the configuration as it is written, with its ${NAME}s."""
    config = {name: value for name, value in values.items() if name not in _OF_THE_CHART | _OF_FILES}
    chart: dict[str, Any] = {"config": config}
    secrets = []
    if not values.get("keys") or values.get("keys_file"):
        chart["keys"] = {"existingSecret": "quotapool-keys", "secretKey": _KEYS}
        secrets.append(f"quotapool-keys --from-file={_KEYS}=quotapool.keys   # one key a line")
    if variables := [name for name in needs.variables if name != _KEYS and f"${{{name}}}" in str(config)]:
        chart["clients"] = {"existingSecret": "quotapool-variables"}
        words = " ".join(f"--from-file={name}" for name in variables)
        secrets.append(f"quotapool-variables {words}   # a file for each")
    if values.get("admin_token"):
        chart["adminToken"] = {"existingSecret": "quotapool-admin", "secretKey": "admin-token"}
        secrets.append("quotapool-admin --from-file=admin-token")
    if values.get("master_key_file"):
        chart["masterKey"] = {"existingSecret": "quotapool-master", "secretKey": "master-key"}
        secrets.append("quotapool-master --from-file=master-key")
    if values.get("redis"):
        chart["externalRedis"] = {"existingSecret": "quotapool-redis", "secretKey": "url"}
        secrets.append("quotapool-redis --from-file=url")
    commands = [*(f"kubectl create secret generic {secret}" for secret in secrets), _INSTALL]
    head = _HEAD + "".join(f"#   {command}\n" for command in commands)
    return head + yaml.safe_dump(chart, sort_keys=False, width=120, allow_unicode=True)


_INSTALL: Final = "helm install quotapool config/helm/quotapool --values values.yaml"
_HEAD: Final = """\
# Written by `quotapool init --helm`, for the chart in config/helm/quotapool of the sources. One pod with its own store,
# unless externalRedis is given. Secrets are named here, and made with:
"""
