"""The commands that belong to no group, and the groups; the commands of a group are in the module of its name."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import MutableMapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quotapool import __version__, build
from quotapool.cli.options import ConfigOption, EnvFileOption, JsonOption, settings_or_exit


class _Group(TyperGroup):
    """Imports the module of its name when its commands are needed: a start and a health check are quick without."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """By name, from the `app` of the module."""
        return typer.main.get_group(import_module(f"quotapool.cli.{self.name}").app).commands

    @commands.setter
    def commands(self, _: MutableMapping[str, Any]) -> None:
        return


app = typer.Typer(
    name="quotapool",
    help="A rate-limiting reverse proxy that pools OpenAI API keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and those contain keys
)
for _name, _help in (
    ("clients", "Client keys: who may call the proxy."),
    ("teams", "Teams: limits and budgets that clients share."),
    ("keys", "Upstream keys: show, add, change and probe them."),
    ("openai", "What OpenAI itself reports, with an admin key."),
    ("alerts", "Alerts: webhooks, chats and e-mail."),
    ("objects", "Stored objects: which account holds what."),
):
    app.add_typer(typer.Typer(help=_help, no_args_is_help=True, cls=_Group), name=_name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quotapool {__version__} ({build.describe()}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def quotapool(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A rate-limiting reverse proxy that pools OpenAI API keys."""


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
        from quotapool.cli.check_config import run as check

        raise typer.Exit(check(settings))
    from quotapool.app.supervisor import serve as run
    from quotapool.settings import load

    raise typer.Exit(run(settings, partial(load, config, env=os.environ, env_file=env_file, overrides=overrides)))


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


@app.command("config")
def show_config(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only options that are not at their default.")] = False,
    json: JsonOption = False,
) -> None:
    """Every option in force, with its value and where it was set: file and line, variable, or default."""
    from quotapool.cli.config import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json, changed=changed))


@app.command()
def now(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """How the pool stands: what to look at, how much room each model has, what runs dry first and when, who waits."""
    from quotapool.cli.now import show_now

    raise typer.Exit(show_now(settings_or_exit(config, env_file), as_json=json))


@app.command()
def room(
    model: Annotated[str, typer.Argument(help="A model, or the name of its group.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every account of a large pool.")] = False,
    json: JsonOption = False,
) -> None:
    """How much room one model has, in all and by account, and when it runs dry at this pace."""
    from quotapool.cli.now import show_room

    raise typer.Exit(show_room(settings_or_exit(config, env_file), model, show_all=everything, as_json=json))


@app.command()
def savings(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """What clients were spared this month: errors, refusals, and money by OpenAI's prompt cache."""
    from quotapool.cli.savings import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json))


@app.command()
def usage(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    by: Annotated[
        str, typer.Option(help="account, key, model, client, day or pool; or two: client,model, key,model, client,day.")
    ] = "model",
    since: Annotated[
        str, typer.Option(help="A UTC day (2026-11-01), 7d, 24h, 90m, 15:00, 2026-11-01T15:00, or month.")
    ] = "month",
    until: Annotated[
        str | None, typer.Option(help="The same; a day is included, a time is not.", show_default="now")
    ] = None,
    every: Annotated[str | None, typer.Option(help="1m, 5m, 1h or 1d: a row for each.", show_default="one sum")] = None,
    only: Annotated[
        str | None, typer.Option(help="Only this one of what comes first in --by.", show_default=False)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Only so many names (1 to 100), those that cost most; the others in one row."),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    json: JsonOption = False,
) -> None:
    """What was used and spent: exact, estimated, unpriced, refused, and what cannot be seen from here."""
    from quotapool.cli.usage import run

    settings = settings_or_exit(config, env_file)
    code = run(settings, by=by, since=since, until=until, every=every, only=only, top=top, as_csv=csv, as_json=json)
    raise typer.Exit(code)


@app.command()
def logs(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    last: Annotated[int, typer.Option(help="How many.", min=0, max=100_000)] = 50,
    client: Annotated[str | None, typer.Option(help="Only this client's.", show_default=False)] = None,
    key: Annotated[str | None, typer.Option(help="Only those that tried this key.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Only those for this model.", show_default=False)] = None,
    code: Annotated[
        str | None, typer.Option(help="The proxy's own error code, or upstream's reason.", show_default=False)
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only those refused, failed or cut.")] = False,
    waited: Annotated[bool, typer.Option("--waited", help="Only those that waited in the queue.")] = False,
    retried: Annotated[bool, typer.Option("--retried", help="Only those with more than one attempt.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And new ones as they end, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: a JSON object a line.")] = False,
) -> None:
    """The pool's last requests, of all replicas: who, which model, what came of it, how long, tokens, cost, keys."""
    from quotapool.cli.logs import run
    from quotapool.shapes.requests import RequestQuery

    settings = settings_or_exit(config, env_file)
    query = RequestQuery(last, client, key, model, code, errors, waited, retried)
    raise typer.Exit(run(settings, query, as_json=json, follow=follow))


@app.command()
def explain(
    request_id: Annotated[
        str | None,
        typer.Argument(
            help="From the answer's x-quotapool-request-id, or `quotapool logs`.",
            show_default=False,
            metavar="REQUEST_ID",
        ),
    ] = None,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    dry_run: Annotated[
        str | None,
        typer.Option(
            "--dry-run",
            metavar="FILE",
            help="Instead: what would happen to a request with this body now. It is not sent. -: standard input.",
            show_default=False,
        ),
    ] = None,
    client: Annotated[str | None, typer.Option(help="Of the dry run: whose it is.", show_default=False)] = None,
    endpoint: Annotated[str, typer.Option(help="Of the dry run: its path.")] = "/v1/chat/completions",
    json: JsonOption = False,
) -> None:
    """Why a request was refused, failed or slow, who used what it was short of, and the cheapest remedy."""
    if (request_id is None) is (dry_run is None):
        raise typer.BadParameter("give either a REQUEST_ID or --dry-run FILE")
    settings = settings_or_exit(config, env_file)
    if dry_run is not None:
        from quotapool.cli import dry_run as command

        raise typer.Exit(command.run(settings, dry_run, endpoint=endpoint, client=client, as_json=json))
    from quotapool.cli.explain import run

    raise typer.Exit(run(settings, request_id or "", as_json=json))


@app.command()
def dashboard(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the link only.")] = False,
) -> None:
    """Open the operators' page, logged in: a link that works once, for a minute."""
    from quotapool.cli.dashboard import run

    raise typer.Exit(run(settings_or_exit(config, env_file), is_opened=not no_open))


@app.command()
def events(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    kind: Annotated[
        str | None, typer.Option(help="state, brake, egress, policy, operator …", show_default="all")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="k/KEY, a/ACCOUNT, o/ORGANISATION, c/CLIENT or t/TEAM.", show_default="all")
    ] = None,
    since: Annotated[str, typer.Option(help="A span (90m, 24h, 7d), or a day or time (2026-11-01T15:00, UTC).")] = "7d",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And new ones as they come, until Ctrl-C.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: a JSON object a line.")] = False,
) -> None:
    """What happened to keys, and which operator changed what: the pool's last 10,000 events, the oldest first."""
    from quotapool.cli.events import Form, run
    from quotapool.shapes.general import EventQuery

    form: Form = "csv" if csv else "json" if json else "lines"
    query = EventQuery(kind=kind, subject=subject)
    raise typer.Exit(run(settings_or_exit(config, env_file), query, since, form, follow=follow))


@app.command()
def me(
    base_url: Annotated[
        str | None, typer.Option(envvar="OPENAI_BASE_URL", help="The proxy, as clients name it.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """For clients: what OPENAI_API_KEY may use here, what is left of it, and what was refused."""
    from quotapool.cli.me import run

    raise typer.Exit(run(base_url, as_json=json))


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
