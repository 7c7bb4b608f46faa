"""The first commands and the groups. A group is in the module of its name; what looks at the pool is in `look.py`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from quotapool import __version__, build
from quotapool.cli.groups import FOR_PROGRAMS, LOOK, POOL, START, LazyGroup, Root
from quotapool.cli.look import app as look
from quotapool.cli.options import (
    ConfigOption,
    EnvFileOption,
    JsonOption,
    configuration_or_exit,
    settings_or_exit,
)

app = typer.Typer(
    name="quotapool",
    cls=Root,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and those contain keys
)
for _name, _panel, _help in (
    ("migrate", START, "Move over from gpt-load, one-api, new-api or LiteLLM."),
    ("cache", LOOK, "Kept answers: what they saved, and deleting them."),
    ("keys", POOL, "Upstream keys: show, add, change and probe them."),
    ("clients", POOL, "Client keys: who may call the proxy, and what each may use."),
    ("teams", POOL, "Teams: limits and budgets that clients share."),
    ("alerts", POOL, "Try the webhooks, chats and e-mail that alerts go to."),
    ("objects", POOL, "Stored objects: which account holds what."),
    ("openai", POOL, "What OpenAI itself reports, with an admin key."),
):
    app.add_typer(typer.Typer(help=_help, no_args_is_help=True, cls=LazyGroup), name=_name, rich_help_panel=_panel)
app.add_typer(look)  # without a name: its commands are ours


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quotapool {__version__} ({build.describe()}, Python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def quotapool(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A rate-limiting reverse proxy that pools OpenAI API keys."""


@app.command(rich_help_panel=START)
def init(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The configuration to write; other files go beside it.")
    ] = Path("quotapool.yaml"),
    keys: Annotated[
        str | None,
        typer.Option(
            "--keys",
            help="Take the keys from this file, one a line or a CSV of id,secret,account; -: standard input.",
            show_default=False,
        ),
    ] = None,
    from_env: Annotated[
        bool, typer.Option("--from-env", help="The keys stay in OPENAI_API_KEYS, and are written nowhere.")
    ] = False,
    env_file: EnvFileOption = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Clients' address; 0.0.0.0:8080 lets other machines in.", show_default="127.0.0.1:8080"),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            help="Make a key for a client of this name; always made if other machines are let in.", show_default=False
        ),
    ] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="Also write a hardened systemd unit.")] = False,
    compose: Annotated[bool, typer.Option("--compose", help="Also write a compose file.")] = False,
    helm: Annotated[bool, typer.Option("--helm", help="Only print values for the Helm chart.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a first configuration, and what runs it as a service.

    At a terminal it asks for the OpenAI keys, without showing them, and for who may call. The keys go into a file of
    their own, which only its owner can read. With --systemd, --compose or --helm a configuration that exists is taken
    as it is.
    """
    from quotapool.cli.init import Options, run

    raise typer.Exit(run(Options(path, keys, from_env, listen, client, systemd, compose, helm, force, env_file)))


@app.command(rich_help_panel=START)
def serve(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    listen: Annotated[str | None, typer.Option(help="Clients' address.", show_default="127.0.0.1:8080")] = None,
    admin_listen: Annotated[str | None, typer.Option(help="Operators' address.", show_default="127.0.0.1:9090")] = None,
    upstream: Annotated[
        str | None, typer.Option(help="Upstream's base URL.", show_default="https://api.openai.com")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="The store, shared by replicas.", show_default="an embedded Valkey")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where state is kept.", show_default="~/.local/state/quotapool")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve clients.", show_default="1")] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Only check the configuration.")] = False,
) -> None:
    """Run the proxy. OPENAI_API_KEYS=sk-…,sk-… is enough to start."""
    overrides: dict[str, object] = {
        "listen": listen,
        "admin_listen": admin_listen,
        "upstream": upstream,
        "redis": redis,
        "state_dir": str(state_dir) if state_dir else None,
        "workers": workers,
    }
    settings = configuration_or_exit(config, env_file, overrides)
    if check_config:
        from quotapool.cli.check_config import run as check

        raise typer.Exit(check(settings))
    from quotapool.app.supervisor import serve as run
    from quotapool.settings import load

    raise typer.Exit(run(settings, partial(load, config, env=os.environ, env_file=env_file, overrides=overrides)))


@app.command(rich_help_panel=START)
def check(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    json: JsonOption = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every key of a large pool, not only unusable ones.")
    ] = False,
) -> None:
    """Ask OpenAI about each key; show its state and what to do.

    Of a large pool only keys that are not usable, and a summary. Exit code 0 if all are usable, 1 if one is not, 2 if
    that could not be found out.
    """
    from quotapool.cli.check import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json, show_all=everything))


@app.command(rich_help_panel=START)
def doctor(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as problems, for a pipeline.")] = False,
    json: JsonOption = False,
) -> None:
    """Look for what is wrong around the proxy, and say what to do.

    The store and its rights, disks, limits, clocks, certificates, ports, the way to OpenAI. With or without a running
    proxy; sends no key and changes nothing. Takes some 10 s at most. Exit code 0 if there is no problem, 1 if there is
    one, 2 without a usable configuration.
    """
    from quotapool.cli.doctor import run

    raise typer.Exit(run(config, env_file, strict=strict, as_json=json))


@app.command("config", rich_help_panel=START)
def show_config(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only options that are not at their default.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show every option in force, and where it was set.

    That is a file and a line, a variable, the command line, or the default. Secrets are not shown.
    """
    from quotapool.cli.config import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json, changed=changed))


@app.command(rich_help_panel=FOR_PROGRAMS)
def me(
    base_url: Annotated[
        str | None,
        typer.Option(envvar="OPENAI_BASE_URL", help="The proxy's address, as clients have it.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a client what its key may use here, and what is left.

    The key is that in OPENAI_API_KEY. Needs no access to the proxy's machine.
    """
    from quotapool.cli.me import run

    raise typer.Exit(run(base_url, as_json=json))


@app.command(rich_help_panel=FOR_PROGRAMS)
def healthcheck(
    address: Annotated[
        str | None,
        typer.Option(
            envvar="QUOTAPOOL_ADMIN_LISTEN",
            help="The operators' address.",
            show_default="that of the proxy that runs here",
        ),
    ] = None,
) -> None:
    """Exit with code 0 if the proxy on this machine is alive."""
    import urllib.request

    from quotapool.cli.health import operators_address

    address = address or operators_address(os.environ)
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host in {"", "0.0.0.0"} else "[::1]" if host == "[::]" else host
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=3) as answer:
            raise typer.Exit(0 if answer.status == 200 else 1)
    except OSError as error:
        typer.echo(f"quotapool: no answer from {address}: {error}", err=True)
        raise typer.Exit(1) from None


@app.command(
    rich_help_panel=FOR_PROGRAMS,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def simulate(context: typer.Context) -> None:
    """Run an OpenAI-like upstream for demos and tests."""
    from quotapool.simulator import main

    sys.exit(main(context.args))


@app.command(rich_help_panel=START)
def demo(
    port: Annotated[int, typer.Option(help="The clients' port.", min=1, max=65535)] = 8080,
    admin_port: Annotated[int, typer.Option(help="The operators' port.", min=1, max=65535)] = 9090,
) -> None:
    """Try it: a simulated OpenAI, a pool of keys, a few calls.

    No key is needed, and nothing leaves this machine. Serves until Ctrl-C."""
    from quotapool.cli import demo as demonstration

    raise typer.Exit(demonstration.run(demonstration.simulated(), port, admin_port))
