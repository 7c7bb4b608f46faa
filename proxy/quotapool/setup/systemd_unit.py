"""A hardened unit for systemd: a user that exists only while the service runs, and as few rights as the proxy needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quotapool.settings import Settings
from quotapool.setup.first_configuration import HOME, STATE_DIR
from quotapool.setup.needs import Needs

NAME: Final = "quotapool.service"
_MARGIN_S: Final = 15  # for what comes after the drain: the store writes its file, workers that hang are killed
_LOWEST_OPEN_PORT: Final = 1024


class NotForAService(Exception):
    """Why a unit cannot be made of this configuration, with the remedy."""


@dataclass(frozen=True, slots=True)
class SystemdUnit:
    """`program`: the command's words before `serve`. `config`: where the service finds its configuration."""

    program: tuple[str, ...]
    config: Path
    settings: Settings
    needs: Needs

    @property
    def env_file(self) -> Path | None:
        """What has the variables that the configuration names; None: it names none."""
        return self.config.with_suffix(".env") if self.needs.variables else None

    def text(self) -> str:
        """Raises NotForAService."""
        return f"{_HEAD}{self._process()}{self._files()}{self._rights()}{_SANDBOX}{_INSTALL}"

    def _process(self) -> str:
        words = " ".join(_quoted(word) for word in (*self.program, "serve", "--config", str(self.config)))
        return (
            f"ExecStart={words}\n"
            "ExecReload=/bin/kill -HUP $MAINPID\n"
            f"{_PROCESS}"
            "# drain_timeout, in which open streams end, and what comes after it.\n"
            f"TimeoutStopSec={math.ceil(self.settings.drain_timeout) + _MARGIN_S}\n"
        )

    def _files(self) -> str:
        lines: list[str] = []
        environment = {"XDG_RUNTIME_DIR": "%t/quotapool"}
        if str(self.settings.state_dir) != STATE_DIR:
            environment["QUOTAPOOL_STATE_DIR"] = STATE_DIR
        for file in self.needs.files:
            if file.variable is None:
                raise NotForAService(
                    f"{file.option}: the service's user cannot read {file.path}; "
                    "put the secrets of all keys into one keys_file"
                )
            if file.option == "ca_file":
                continue  # no secret: it is read where it is
            name = file.option.replace(".", "_")
            lines.append(f"LoadCredential={name}:{_escaped(str(file.path))}\n")
            environment[file.variable] = f"%d/{name}"
        secrets = _SECRETS if lines else ""
        if self.env_file is not None:
            secrets += f"# Secrets, read by systemd; mode 0600: {', '.join(self.needs.variables)}\n"
            lines.append(f"EnvironmentFile={_escaped(str(self.env_file))}\n")
        lines += [f"Environment={name}={value}\n" for name, value in environment.items()]
        return f"{_USER}{secrets}{''.join(lines)}"

    def _rights(self) -> str:
        ports = [address.port for address in (self.settings.listen, self.settings.admin_listen) if address.port]
        if all(port >= _LOWEST_OPEN_PORT for port in ports):
            return "\nCapabilityBoundingSet=\nPrivateUsers=yes\n"
        return (
            "\n# For a port below 1024.\n"
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
        )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """As systemd.service(5) reads it."""
    escaped = _escaped(word).replace("$", "$$")
    if any(character in escaped for character in " \t\"'\\;"):
        return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escaped


_HEAD: Final = f"""\
# Written by `quotapool init --systemd`. To change it: systemctl edit quotapool
[Unit]
Description=Quotapool, a rate-limiting reverse proxy that pools OpenAI API keys
Documentation={HOME}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
"""

_PROCESS: Final = """\
Restart=on-failure
RestartSec=2
# 2: the configuration is wrong, or what it needs is not there. Trying again does not help.
RestartPreventExitStatus=2
# Only the supervisor gets SIGTERM: it lets open requests end, and stops its workers and its store itself.
KillMode=mixed
TimeoutStartSec=90
"""

_USER: Final = """\

# A user and directories that systemd makes: /var/lib/quotapool for state, /run/quotapool for the store's socket.
DynamicUser=yes
User=quotapool
StateDirectory=quotapool
StateDirectoryMode=0700
RuntimeDirectory=quotapool
RuntimeDirectoryMode=0700
UMask=0077
LimitNOFILE=65536
"""

_SECRETS: Final = """\
# Secrets are read by systemd and handed over at the start; the files belong to root, mode 0600. After a change of one:
# systemctl restart quotapool. (Other changes of the configuration are taken over as they are written.)
"""

_SANDBOX: Final = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_INSTALL: Final = """
[Install]
WantedBy=multi-user.target
"""
