"""The configuration of a first user: a few options, each explained; everything else is named where it is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from quotapool.settings import Address

HOME: Final = "https://github.com/quotapool/quotapool"
STATE_DIR: Final = "/var/lib/quotapool"  # of a service, and in the image
ADMIN_PORT: Final = 9090

# Where the upstream keys are: in a keys_file, in an env file that a container engine reads, or in the environment that
# the proxy is started with.
Secrets = Literal["keys_file", "env_file", "environment"]


@dataclass(frozen=True, slots=True)
class FirstClient:
    """A client that may call: its name, and the SHA-256 of its key."""

    id: str
    key_hash: str


@dataclass(frozen=True, slots=True)
class FirstConfiguration:
    """What was asked. `file` and `secrets_file` are names of files in one directory."""

    file: str
    secrets: Secrets
    secrets_file: str
    listen: Address
    client: FirstClient | None = None
    state_dir: str | None = None
    in_container: bool = False

    def text(self) -> str:
        """The whole YAML file. It has no secret."""
        parts = [self._head(), self._keys(), self._ports(), self._clients(), _REST]
        if self.state_dir is not None:
            parts.insert(3, f"{_STATE}state_dir: {self.state_dir}\n")
        return "\n".join(parts)

    def _head(self) -> str:
        return (
            "# Quotapool's configuration, written by `quotapool init`. It has no secrets in it.\n"
            "# A running proxy takes a change over by itself. To check one before: "
            f"quotapool serve --check-config --config {self.file}\n"
            "#\n"
            f"# Every option, with its default and a comment: {HOME}/blob/main/config/quotapool.example.yaml\n"
            f"# What is in force, and why: quotapool config --config {self.file}\n"
        )

    def _keys(self) -> str:
        if self.secrets == "keys_file":
            return (
                "# The OpenAI keys of the pool, one a line, in a file beside this one that only its owner can read.\n"
                f"keys_file: {self.secrets_file}\n"
            )
        where = (
            "the environment"
            if self.secrets == "environment"
            else f"{self.secrets_file}, which becomes the environment"
        )
        return (
            f"# The OpenAI keys of the pool are in {where}: OPENAI_API_KEYS=sk-...,sk-...\n"
            "# That variable needs no line here. If each key has a variable of its own:\n"
            "#keys:\n"
            '#  - {id: alpha, secret: "${OPENAI_KEY_ALPHA}"}\n'
        )

    def _ports(self) -> str:
        if self.in_container:
            clients = "The clients' port in the container; compose.yaml says who reaches it."
            operators = "The operators' port: dashboard, metrics, health."
            admin = Address("0.0.0.0", ADMIN_PORT)
        else:
            clients = (
                "Clients' base_url is "
                + base_url(self.listen)
                + (
                    ". 0.0.0.0:PORT lets other machines in; they need clients: (below)."
                    if self.listen.is_loopback
                    else ", with this machine's name for other machines."
                )
            )
            operators = f"The operators' port: dashboard, metrics, health. Open: http://127.0.0.1:{ADMIN_PORT}/"
            admin = Address("127.0.0.1", ADMIN_PORT)
        return f"# {clients}\nlisten: {self.listen}\n# {operators}\nadmin_listen: {admin}\n"

    def _clients(self) -> str:
        if self.client is None:
            return (
                "# Who may call. Without clients: everyone on this machine, with any text as the API key.\n"
                "# `quotapool clients add NAME` makes a key for one, with limits and budgets. Or write:\n"
                "#clients:\n"
                '#  - {id: app, key: "${CLIENT_KEY_APP}", budgets: [{usd: 50, per: month}]}\n'
            )
        return (
            "# Who may call: clients, by the SHA-256 of their keys. More of them: `quotapool clients add NAME`.\n"
            "clients:\n"
            f"  - {{id: {self.client.id}, key_hash: {self.client.key_hash}}}\n"
        )


def base_url(listen: Address) -> str:
    """What a client on this machine has as its base URL."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{Address(everywhere.get(listen.host, listen.host), listen.port)}/v1"


_STATE: Final = "# Where state is kept: budgets, spending, the operators' token, keys that were added at run time.\n"
_REST: Final = """\
# Rate limits are learned from OpenAI's answers. Keys of one OpenAI organisation share its limits; the log says which.
# true treats those as one account (not if they are of several projects whose files and batches matter to you).
#merge_organizations: true
# How long a request waits for budget when all keys are busy, before it is refused with the time to come back.
queue:
  max_wait: 30s
# The most that the pool may spend in a day (UTC), in dollars.
#spend:
#  daily_limit_usd: 50
# Where to warn before the pool runs dry: a webhook, chat or e-mail.
#alerts:
#  targets: [{url: "${ALERTS_WEBHOOK}"}]
"""
