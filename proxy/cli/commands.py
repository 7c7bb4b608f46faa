"""The commands and their options. What they do is in the modules beside this one."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proxy.settings import Settings

app = typer.Typer(
    name="quotapool",
    help="A rate-limiting reverse proxy that pools OpenAI API keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and those hold keys
)
clients = typer.Typer(help="Client keys: who may call the proxy.", no_args_is_help=True)
app.add_typer(clients, name="clients")
keys = typer.Typer(help="Upstream keys: look, and have the last word.", no_args_is_help=True)
app.add_typer(keys, name="keys")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; also QUOTAPOOL_CONFIG.", show_default=False)
]
EnvFileOption = Annotated[
    Path | None, typer.Option("--env-file", help="A .env file; the real environment wins.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def _load(config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None) -> Settings:
    from proxy.settings import load

    return load(config, env=os.environ, env_file=env_file, overrides=overrides)


def _settings(config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None) -> Settings:
    """The configuration, or exit code 2 with what is wrong."""
    from proxy.settings import ConfigError

    try:
        return _load(config, env_file, overrides)
    except ConfigError as error:
        typer.echo(f"quotapool: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def serve(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    listen: Annotated[str | None, typer.Option(help="Clients' address.", show_default="127.0.0.1:8080")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="Operators' address.", show_default="127.0.0.1:9090")] = None,
    upstream: Annotated[str | None, typer.Option(help="Upstream's base URL.", show_default=False)] = None,
    redis: Annotated[str | None, typer.Option(help="Store; default: an embedded Valkey.", show_default=False)] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where state is kept.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="1")] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Validate, say so, exit.")] = False,
) -> None:
    """Serve clients. OPENAI_API_KEYS=sk-…,sk-… is enough to begin."""
    overrides: dict[str, object] = {
        "listen": listen,
        "admin_listen": admin_listen,
        "upstream": upstream,
        "redis": redis,
        "state_dir": str(state_dir) if state_dir else None,
        "workers": workers,
    }
    settings = _settings(config, env_file, overrides)
    if check_config:
        for warning in settings.warnings:
            typer.echo(f"warning: {warning}", err=True)
        accounts = len({key.account for key in settings.keys})
        typer.echo(f"ok: {len(settings.keys)} keys in {accounts} accounts, {len(settings.clients)} clients")
        return
    from proxy.app.supervisor import serve as run

    raise typer.Exit(run(settings, partial(_load, config, env_file, overrides)))


@app.command()
def check(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Each key: is it valid, its state, what is left, what to do. Exit code 1 if one is not usable."""
    from proxy.cli.check import run

    raise typer.Exit(run(_settings(config, env_file), as_json=json))


@app.command()
def healthcheck(
    address: Annotated[
        str, typer.Option(envvar="QUOTAPOOL_ADMIN_LISTEN", help="The operators' address.")
    ] = "127.0.0.1:9090",
) -> None:
    """For containers: exit code 0 if the proxy lives."""
    import urllib.request

    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host in {"", "0.0.0.0"} else "[::1]" if host == "[::]" else host
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=3) as answer:
            raise typer.Exit(0 if answer.status == 200 else 1)
    except OSError as error:
        typer.echo(f"quotapool: no answer from {address}: {error}", err=True)
        raise typer.Exit(1) from None


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def simulate(context: typer.Context) -> None:
    """An OpenAI-like upstream for demos and tests; --help shows its options."""
    from proxy.simulator import main

    sys.exit(main(context.args))


KeyArgument = Annotated[str, typer.Argument(help="The key's id.")]


@keys.command("list")
def keys_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Each key's state and reason, without asking upstream."""
    from proxy.cli.keys import show

    raise typer.Exit(show(_settings(config, env_file), as_json=json))


@keys.command("enable")
def keys_enable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Active again: a removed, quarantined, disabled or draining key."""
    from proxy.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "enable", key))


@keys.command("disable")
def keys_disable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No requests until it is enabled."""
    from proxy.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "disable", key))


@keys.command("drain")
def keys_drain(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No new requests; those under way end. The same as disable, with the intention told."""
    from proxy.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "drain", key))


@keys.command("remove")
def keys_remove(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Out for good, over restarts, until it is enabled or its secret changes."""
    from proxy.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "remove", key))


@clients.command("add")
def clients_add(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    key: Annotated[
        str | None, typer.Option(help="Use this existing token instead of a new one; - reads it.", show_default=False)
    ] = None,
) -> None:
    """Make a client key and show it, once."""
    from proxy.cli.clients import add

    raise typer.Exit(add(_settings(config, env_file), name, sys.stdin.readline().strip() if key == "-" else key))


@clients.command("list")
def clients_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Who has a key."""
    from proxy.cli.clients import show

    raise typer.Exit(show(_settings(config, env_file), as_json=json))


@clients.command("revoke")
def clients_revoke(
    name: Annotated[str, typer.Argument(help="Whose key.")], config: ConfigOption = None, env_file: EnvFileOption = None
) -> None:
    """Take a client's key back; it stops working within a second."""
    from proxy.cli.clients import revoke

    raise typer.Exit(revoke(_settings(config, env_file), name))
