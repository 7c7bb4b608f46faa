"""The commands and their options; those of `quotapool keys` are in key_commands. What they do is in other modules."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from quotapool.cli.key_commands import keys
from quotapool.cli.options import ConfigOption, EnvFileOption, JsonOption, load_settings, settings_or_exit

app = typer.Typer(
    name="quotapool",
    help="A rate-limiting reverse proxy that pools OpenAI API keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and those contain keys
)
clients = typer.Typer(help="Client keys: who may call the proxy.", no_args_is_help=True)
openai = typer.Typer(help="What OpenAI itself reports, with an admin key.", no_args_is_help=True)
alerts = typer.Typer(help="Alerts: webhooks, chats and e-mail.", no_args_is_help=True)
objects = typer.Typer(help="Stored objects: which account holds what.", no_args_is_help=True)
app.add_typer(clients, name="clients")
app.add_typer(keys, name="keys")
app.add_typer(openai, name="openai")
app.add_typer(alerts, name="alerts")
app.add_typer(objects, name="objects")


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
    check_config: Annotated[bool, typer.Option("--check-config", help="Validate the configuration and exit.")] = False,
) -> None:
    """Serve clients. OPENAI_API_KEYS=sk-…,sk-… is enough to start."""
    overrides: dict[str, object] = {
        "listen": listen,
        "admin_listen": admin_listen,
        "upstream": upstream,
        "redis": redis,
        "state_dir": str(state_dir) if state_dir else None,
        "workers": workers,
    }
    settings = settings_or_exit(config, env_file, overrides)
    if check_config:
        for warning in settings.warnings:
            typer.echo(f"warning: {warning}", err=True)
        accounts = len({key.account for key in settings.keys})
        typer.echo(f"ok: {len(settings.keys)} keys in {accounts} accounts, {len(settings.clients)} clients")
        return
    from quotapool.app.supervisor import serve as run

    raise typer.Exit(run(settings, partial(load_settings, config, env_file, overrides)))


@app.command()
def check(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    json: JsonOption = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every key of a large pool, not only unusable ones.")
    ] = False,
) -> None:
    """Each key: whether it is valid, its state, what is left, what to do. Exit code 1 if one is not usable."""
    from quotapool.cli.check import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json, show_all=everything))


@app.command()
def usage(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    by: Annotated[str, typer.Option(help="account, key, model, client or day.")] = "model",
    since: Annotated[str, typer.Option(help="A UTC day (2026-11-01), a number of days (7d), or month.")] = "month",
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    json: JsonOption = False,
) -> None:
    """What was spent, exact, estimated and unpriced, and what cannot be seen from here."""
    from quotapool.cli.usage import run

    raise typer.Exit(run(settings_or_exit(config, env_file), by=by, since=since, as_csv=csv, as_json=json))


@app.command()
def healthcheck(
    address: Annotated[
        str, typer.Option(envvar="QUOTAPOOL_ADMIN_LISTEN", help="The operators' address.")
    ] = "127.0.0.1:9090",
) -> None:
    """For containers: exit code 0 if the proxy is alive."""
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
    from quotapool.simulator import main

    sys.exit(main(context.args))


@alerts.command("test")
def alerts_test(config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Send one alert to each target and show what happened. Exit code 1 if one did not accept it."""
    from quotapool.cli.alerts import run

    raise typer.Exit(run(settings_or_exit(config, env_file)))


@clients.command("add")
def clients_add(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    key: Annotated[
        str | None, typer.Option(help="Use this existing token instead of a new one; - reads it.", show_default=False)
    ] = None,
) -> None:
    """Create a client key and show it, once."""
    from quotapool.cli.clients import add

    raise typer.Exit(add(settings_or_exit(config, env_file), name, sys.stdin.readline().strip() if key == "-" else key))


@clients.command("list")
def clients_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """All clients that have a key."""
    from quotapool.cli.clients import show

    raise typer.Exit(show(settings_or_exit(config, env_file), as_json=json))


@clients.command("resume")
def clients_resume(
    name: Annotated[str, typer.Argument(help="The client.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Serve a client again that was suspended for policy refusals (safety.suspend_after)."""
    from quotapool.cli.clients import resume

    raise typer.Exit(resume(settings_or_exit(config, env_file), name))


@clients.command("revoke")
def clients_revoke(
    name: Annotated[str, typer.Argument(help="Whose key.")], config: ConfigOption = None, env_file: EnvFileOption = None
) -> None:
    """Revoke a client's key; it stops working within a second."""
    from quotapool.cli.clients import revoke

    raise typer.Exit(revoke(settings_or_exit(config, env_file), name))


@openai.command("limits")
def openai_limits(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    write: Annotated[bool, typer.Option("--write", help="As YAML for the configuration file.")] = False,
    json: JsonOption = False,
) -> None:
    """The rate limits of each account's project, by model."""
    from quotapool.cli.openai import limits

    raise typer.Exit(limits(settings_or_exit(config, env_file), write=write, as_json=json))


@openai.command("reconcile")
def openai_reconcile(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    since: Annotated[str, typer.Option(help="First day (UTC): 2026-11-01, 7d (with today), or month.")] = "7d",
    until: Annotated[str | None, typer.Option(help="Last day (UTC).", show_default="today")] = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
) -> None:
    """Our spend beside OpenAI's costs, by day and key, and what can explain the difference."""
    from quotapool.cli.openai import reconciliation

    raise typer.Exit(reconciliation(settings_or_exit(config, env_file), since, until, as_json=json, as_csv=csv))


ObjectArgument = Annotated[str, typer.Argument(help="The object's id: file-…, batch_…, resp_… and so on.")]


@objects.command("list")
def objects_list(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    client: Annotated[str | None, typer.Option(help="Only this client's.", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="Only this account's.", show_default=False)] = None,
    json: JsonOption = False,
) -> None:
    """Files, batches, vector stores and the like, with their account and client. Not responses: they are too many."""
    from quotapool.cli.objects import show

    raise typer.Exit(show(settings_or_exit(config, env_file), client=client, account=account, as_json=json))


@objects.command("find")
def objects_find(
    object_id: ObjectArgument, config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False
) -> None:
    """The account that holds an object, responses too."""
    from quotapool.cli.objects import find

    raise typer.Exit(find(settings_or_exit(config, env_file), object_id, as_json=json))


@objects.command("forget")
def objects_forget(object_id: ObjectArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Forget who owns an object, within a minute; the object itself stays at OpenAI."""
    from quotapool.cli.objects import forget

    raise typer.Exit(forget(settings_or_exit(config, env_file), object_id))
