"""The commands that come after `quotapool init`, ready to be copied."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from quotapool.setup import systemd_unit
from quotapool.setup.needs import Needs
from quotapool.setup.systemd_unit import SystemdUnit


def compose_steps(file: Path, config: Path) -> list[str]:
    """`file`: the compose file. `config`: the configuration, as the container sees it."""
    compose = f"docker compose --file {quote(str(file))}"
    return [f"{compose} up --detach", f"{compose} exec proxy quotapool check --config {quote(str(config))}"]


def systemd_steps(unit: SystemdUnit, config: Path, needs: Needs, *, is_installed: bool) -> list[str]:
    """To put everything where `unit` looks for it, and to start it. `config`, `needs`: where all is now."""
    steps = []
    if not is_installed:
        steps.append("sudo python3 -m venv /opt/quotapool && sudo /opt/quotapool/bin/pip install quotapool")
    home = unit.config.parent
    if home != config.parent:
        private = [file.path for file in needs.files if file.path.is_relative_to(config.parent)]
        places = " ".join(quote(str(path)) for path in private)
        steps.append(f"sudo install -D --mode 644 --target-directory {quote(str(home))} {quote(str(config))}")
        if places:
            steps.append(f"sudo install --mode 600 --target-directory {quote(str(home))} {places}")
    if unit.env_file is not None:
        names = ", ".join(unit.needs.variables)
        file = quote(str(unit.env_file))
        steps.append(f"sudo touch {file} && sudo chmod 600 {file} && sudoedit {file}   # NAME=value: {names}")
    source = config.parent / systemd_unit.NAME
    steps.append(f"sudo install --mode 644 --target-directory /etc/systemd/system {quote(str(source))}")
    steps.append("sudo systemctl daemon-reload && sudo systemctl enable --now quotapool")
    return steps
