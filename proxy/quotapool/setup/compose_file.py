"""A compose file that runs one proxy with the configuration beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from quotapool import __version__
from quotapool.settings import Settings
from quotapool.setup.first_configuration import HOME, STATE_DIR
from quotapool.setup.needs import Needs

NAME: Final = "compose.yaml"
_IN_CONTAINER: Final = Path("/etc/quotapool")
_MARGIN_S: Final = 15


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """For `config`, which is in the same directory. `everywhere`: other machines reach the clients' port. `env_file`: a
    file beside it that has the variables; None: the shell has them, or compose's own .env."""

    config: Path
    settings: Settings
    needs: Needs
    everywhere: bool = False
    env_file: str | None = None

    @property
    def inside(self) -> Path:
        """The configuration, as the container sees it."""
        return _IN_CONTAINER / self.config.name

    def text(self) -> str:
        """The whole file."""
        clients, operators = self.settings.listen.port, self.settings.admin_listen.port
        here = "" if self.everywhere else "127.0.0.1:"
        service: dict[str, Any] = {
            "image": f"quotapool:{__version__}",
            "command": ["serve", "--config", str(self.inside)],
            "restart": "unless-stopped",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "tmpfs": ["/tmp:size=64m,mode=1777"],  # noqa: S108  of the container
            "ports": [f"{here}{clients}:{clients}", f"127.0.0.1:{operators}:{operators}"],
            "environment": self._environment(),
            "volumes": [f"state:{STATE_DIR}", *self._mounts()],
            "stop_grace_period": f"{math.ceil(self.settings.drain_timeout) + _MARGIN_S}s",
            "healthcheck": {
                "test": ["CMD", "quotapool", "healthcheck", "--address", f"127.0.0.1:{operators}"],
                "interval": "10s",
                "timeout": "5s",
                "start_period": "15s",
                "retries": 3,
            },
        }
        if self.env_file is not None:
            service["env_file"] = [f"./{self.env_file}"]
        values = {"name": "quotapool", "services": {"proxy": service}, "volumes": {"state": {}}}
        return _HEAD + self._about_files() + yaml.safe_dump(values, sort_keys=False, width=120)

    def _environment(self) -> dict[str, str]:
        """They override the file: in a container the proxy listens everywhere, and `ports` says who reaches it."""
        passed_on = () if self.env_file is not None else self.needs.variables
        return {
            **{name: f"${{{name}:?is not set}}" for name in passed_on},
            "QUOTAPOOL_LISTEN": f"0.0.0.0:{self.settings.listen.port}",
            "QUOTAPOOL_ADMIN_LISTEN": f"0.0.0.0:{self.settings.admin_listen.port}",
            "QUOTAPOOL_STATE_DIR": STATE_DIR,
        }

    def _mounts(self) -> list[str]:
        return [f"{outside}:{inside}:ro" for outside, inside in self._files()]

    def _files(self) -> list[tuple[str, Path]]:
        """Each where the configuration, by a relative or an absolute path, looks for it."""
        found = [(f"./{self.config.name}", self.inside)]
        for file in self.needs.files:
            if file.path.is_relative_to(self.config.parent):
                inside = file.path.relative_to(self.config.parent)
                found.append((f"./{inside}", _IN_CONTAINER / inside))
            else:
                found.append((str(file.path), file.path))
        return found

    def _about_files(self) -> str:
        lines = []
        if self.needs.variables:
            where = "the environment of docker compose" if self.env_file is None else f"{self.env_file}, mode 0600"
            lines.append(f"# In {where}: {', '.join(self.needs.variables)}")
        if private := [file for file in self.needs.files if file.option not in {"ca_file", "tls.cert_file"}]:
            names = " ".join(str(file.path) for file in private)
            lines.append(f"# The container's user has to be able to read its secrets: sudo chown 10001 {names}")
        return "".join(f"{line}\n" for line in lines)


_HEAD: Final = f"""\
# Written by `quotapool init --compose`: one proxy with its own store. Of its ports the first is for clients, the second
# for operators on this machine.
# The image is built from the sources: docker build --tag quotapool:{__version__} .   ({HOME})
# More replicas need a shared store: {HOME}/blob/main/config/compose.yaml
"""
