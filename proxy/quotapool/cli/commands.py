"""The commands and their options. What they do is in the modules beside this one."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quotapool.settings import Settings

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
openai = typer.Typer(help="What OpenAI itself says, with an admin key.", no_args_is_help=True)
app.add_typer(openai, name="openai")

alerts = typer.Typer(help="Alerts: webhooks, chats and e-mail.", no_args_is_help=True)
app.add_typer(alerts, name="alerts")

objects = typer.Typer(help="Stored objects: which account holds what.", no_args_is_help=True)
app.add_typer(objects, name="objects")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; also QUOTAPOOL_CONFIG.", show_default=False)
]
EnvFileOption = Annotated[
    Path | None, typer.Option("--env-file", help="A .env file; the real environment wins.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def _load(config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None) -> Settings:
    from quotapool.settings import load

    return load(config, env=os.environ, env_file=env_file, overrides=overrides)


def _settings(config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None) -> Settings:
    """The configuration, or exit code 2 with what is wrong."""
    from quotapool.settings import ConfigError

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
    from quotapool.app.supervisor import serve as run

    raise typer.Exit(run(settings, partial(_load, config, env_file, overrides)))


@app.command()
def check(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    json: JsonOption = False,
    everything: Annotated[bool, typer.Option("--all", help="Every key of a large pool, not only bad ones.")] = False,
) -> None:
    """Each key: is it valid, its state, what is left, what to do. Exit code 1 if one is not usable."""
    from quotapool.cli.check import run

    raise typer.Exit(run(_settings(config, env_file), as_json=json, show_all=everything))


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

    raise typer.Exit(run(_settings(config, env_file), by=by, since=since, as_csv=csv, as_json=json))


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
    from quotapool.simulator import main

    sys.exit(main(context.args))


KeyArgument = Annotated[str, typer.Argument(help="The key's id.")]


@keys.command("list")
def keys_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Each key's state and reason, without asking upstream."""
    from quotapool.cli.keys import show

    raise typer.Exit(show(_settings(config, env_file), as_json=json))


@keys.command("enable")
def keys_enable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Active again: a removed, quarantined, disabled or draining key."""
    from quotapool.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "enable", key))


@keys.command("disable")
def keys_disable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No requests until it is enabled."""
    from quotapool.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "disable", key))


@keys.command("drain")
def keys_drain(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No new requests; those under way end. The same as disable, with the intention told."""
    from quotapool.cli.keys import say

    raise typer.Exit(say(_settings(config, env_file), "drain", key))


@keys.command("remove")
def keys_remove(
    key: KeyArgument,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    delete: Annotated[
        bool, typer.Option("--forget", help="Delete it with its secret: a key that was added at run time.")
    ] = False,
) -> None:
    """Out for good, over restarts, until it is enabled or its secret changes."""
    from quotapool.cli.keys import forget, say

    settings = _settings(config, env_file)
    raise typer.Exit(forget(settings, key) if delete else say(settings, "remove", key))


@keys.command("probe")
def keys_probe(
    key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False
) -> None:
    """Ask OpenAI about one key now. Exit code 1 if it is not valid."""
    from quotapool.cli.keys import probe

    raise typer.Exit(probe(_settings(config, env_file), key, as_json=json))


NoCheckOption = Annotated[bool, typer.Option("--no-check", help="Do not ask OpenAI whether it is valid.")]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="A new secret for an id that was added before.")]


@keys.command("add")
def keys_add(
    secret: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    name: Annotated[str | None, typer.Option("--id", help="Its name.", show_default="key- and 8 hex digits")] = None,
    account: Annotated[str | None, typer.Option(help="Whose limits it shares.", show_default="its own")] = None,
    tier: Annotated[str | None, typer.Option(help="One of tiers:, for its account.", show_default=False)] = None,
    no_check: NoCheckOption = False,
    replace: ReplaceOption = False,
) -> None:
    """Add a key while the proxy runs. Its secret is read from standard input, or asked for at a terminal."""
    from quotapool.cli.keys import add

    if secret:
        typer.echo(
            "quotapool: a secret is not taken as an argument: other users see it in the list of processes, and the "
            "shell keeps it. Give it on standard input. If that was a real one, it should be replaced",
            err=True,
        )
        raise typer.Exit(2)
    raise typer.Exit(add(_settings(config, env_file), name, account, tier, check=not no_check, replace=replace))


@keys.command("import")
def keys_import(
    file: Annotated[Path, typer.Argument(help="One secret a line, or CSV with a first line of names.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    no_check: NoCheckOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check, and store nothing.")] = False,
    replace: ReplaceOption = False,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="Checks under way at once.")] = 64,
    per_second: Annotated[float, typer.Option(min=0.1, help="Checks a second, at most.")] = 200.0,
    json: JsonOption = False,
    report: Annotated[Path | None, typer.Option(help="A file for the whole report.", show_default=False)] = None,
) -> None:
    """Add thousands of keys; may be repeated. Exit code 1 if a line's key is not in the pool afterwards."""
    from quotapool.cli.keys_import import run

    raise typer.Exit(
        run(
            _settings(config, env_file),
            file,
            check=not no_check,
            dry_run=dry_run,
            replace=replace,
            at_once=at_once,
            per_second=per_second,
            as_json=json,
            report_file=report,
        )
    )


@keys.command("rotate-master-key")
def keys_rotate_master_key(
    new_file: Annotated[Path, typer.Option("--new-file", help="Holds the new master key; made if it is not there.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Seal the keys that were added at run time with another master key, all at once or none."""
    from quotapool.cli.keys import rotate_master_key

    raise typer.Exit(rotate_master_key(_settings(config, env_file), new_file))


@keys.command("topup")
def keys_topup(
    account: Annotated[str, typer.Argument(help="The account (of a key without one: the key's id).")],
    usd: Annotated[float, typer.Argument(help="Dollars of credit that were bought.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    expires: Annotated[str | None, typer.Option(help="First day (UTC) it is gone.", show_default="never")] = None,
    granted: Annotated[str | None, typer.Option(help="First day (UTC) it counts.", show_default="today")] = None,
) -> None:
    """Record credit that was bought, and try the account again at once."""
    from quotapool.cli.topup import run

    raise typer.Exit(run(_settings(config, env_file), account, usd, granted=granted, expires=expires))


@alerts.command("test")
def alerts_test(config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Send one alert to each target and say what happened. Exit code 1 if one did not take it."""
    from quotapool.cli.alerts import run

    raise typer.Exit(run(_settings(config, env_file)))


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
    from quotapool.cli.clients import add

    raise typer.Exit(add(_settings(config, env_file), name, sys.stdin.readline().strip() if key == "-" else key))


@clients.command("list")
def clients_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Who has a key."""
    from quotapool.cli.clients import show

    raise typer.Exit(show(_settings(config, env_file), as_json=json))


@clients.command("resume")
def clients_resume(
    name: Annotated[str, typer.Argument(help="Who.")], config: ConfigOption = None, env_file: EnvFileOption = None
) -> None:
    """Serve a client again that was suspended for policy refusals (safety.suspend_after)."""
    from quotapool.cli.clients import resume

    raise typer.Exit(resume(_settings(config, env_file), name))


@clients.command("revoke")
def clients_revoke(
    name: Annotated[str, typer.Argument(help="Whose key.")], config: ConfigOption = None, env_file: EnvFileOption = None
) -> None:
    """Take a client's key back; it stops working within a second."""
    from quotapool.cli.clients import revoke

    raise typer.Exit(revoke(_settings(config, env_file), name))


@openai.command("limits")
def openai_limits(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    write: Annotated[bool, typer.Option("--write", help="As YAML for the configuration file.")] = False,
    json: JsonOption = False,
) -> None:
    """The rate limits of each account's project, by model."""
    from quotapool.cli.openai import limits

    raise typer.Exit(limits(_settings(config, env_file), write=write, as_json=json))


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

    raise typer.Exit(reconciliation(_settings(config, env_file), since, until, as_json=json, as_csv=csv))


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

    raise typer.Exit(show(_settings(config, env_file), client=client, account=account, as_json=json))


@objects.command("find")
def objects_find(
    object_id: ObjectArgument, config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False
) -> None:
    """The account that holds an object, responses too."""
    from quotapool.cli.objects import find

    raise typer.Exit(find(_settings(config, env_file), object_id, as_json=json))


@objects.command("forget")
def objects_forget(object_id: ObjectArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Forget whose an object is, within a minute; the object itself stays at OpenAI."""
    from quotapool.cli.objects import forget

    raise typer.Exit(forget(_settings(config, env_file), object_id))
