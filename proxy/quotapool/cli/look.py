"""The commands that show how the pool stands, what it did and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, TypeVar

import typer

from quotapool.cli.errors import fail
from quotapool.cli.groups import LOOK
from quotapool.cli.options import ConfigOption, EnvFileOption, JsonOption, settings_or_exit

app = typer.Typer()
T = TypeVar("T")


@app.command(rich_help_panel=LOOK)
def now(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Show how the pool stands: room, what runs dry, who waits.

    First what needs to be looked at, if anything does.
    """
    from quotapool.cli.now import show_now

    raise typer.Exit(show_now(settings_or_exit(config, env_file), as_json=json))


@app.command(rich_help_panel=LOOK)
def top(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    every: Annotated[str, typer.Option(help="How often the store is read: 1s to 1h.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print one frame, as is done where no terminal is.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the pool live on one screen: rates, room, keys, clients.

    Headroom by model and what runs dry, keys that are out or fail, who uses most, the last errors. `?` shows the keys.
    """
    from quotapool.cli.followed import Followed
    from quotapool.cli.top import run

    settings = settings_or_exit(config, env_file)
    followed = Followed(settings, config, env_file, os.environ)
    raise typer.Exit(run(settings, every, followed.changed, once=once, as_json=json))


@app.command(rich_help_panel=LOOK)
def room(
    model: Annotated[str, typer.Argument(help="A model, or the name of its group.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every account of a large pool.")] = False,
    json: JsonOption = False,
) -> None:
    """Show one model's room by account, and when it runs dry."""
    from quotapool.cli.now import show_room

    raise typer.Exit(show_room(settings_or_exit(config, env_file), model, show_all=everything, as_json=json))


@app.command(rich_help_panel=LOOK)
def savings(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Show which errors, and how much money, clients were spared."""
    from quotapool.cli.savings import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json))


@app.command(rich_help_panel=LOOK)
def advise(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Say what clients could do to need less of the pool.

    Requests that repeat, maxima far above use and the like, each with what it would save and how that was computed.
    From counts and digests of the last seven days; only with advice.enabled.
    """
    from quotapool.cli.advise import run

    raise typer.Exit(run(settings_or_exit(config, env_file), as_json=json))


@app.command(rich_help_panel=LOOK)
def usage(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    by: Annotated[
        str,
        typer.Option(
            help="What a row is: account, key, model, client, day or pool; or a pair: "
            "'client,model', 'key,model' or 'client,day'."
        ),
    ] = "model",
    since: Annotated[
        str, typer.Option(help="A UTC day (2026-11-01), 7d, 24h, 90m, 15:00, 2026-11-01T15:00, or month.")
    ] = "month",
    until: Annotated[
        str | None, typer.Option(help="The same; a day is included, a time is not.", show_default="now")
    ] = None,
    every: Annotated[str | None, typer.Option(help="A row for each 1m, 5m, 1h or 1d.", show_default="one sum")] = None,
    only: Annotated[
        str | None, typer.Option(help="Only this one of what comes first in --by.", show_default=False)
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Only so many names, those that cost most (at most 100); the others in one row."),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what was used and spent, by client, key, model or day.

    Exact, estimated and unpriced are told apart, refusals are counted, and what cannot be seen from here is named.
    """
    from quotapool.cli.usage import run

    settings = settings_or_exit(config, env_file)
    code = run(settings, by=by, since=since, until=until, every=every, only=only, top=top, as_csv=csv, as_json=json)
    raise typer.Exit(code)


@app.command(rich_help_panel=LOOK)
def plan(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="'ring', 'usage', a log (-: standard input), a database.")
    ] = "ring",
    since: Annotated[str | None, typer.Option(help="As for usage.", show_default="all; of usage 24h")] = None,
    until: Annotated[str | None, typer.Option(help="The same.", show_default="now")] = None,
    add_accounts: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="So many more accounts.", min=0, show_default=False),
    ] = None,
    tier: Annotated[list[str] | None, typer.Option(help="Their tier: yours, or OpenAI's.", show_default=False)] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An account that they are like.", show_default=False)
    ] = None,
    limits: Annotated[
        list[str] | None, typer.Option(metavar="LIMITS", help="Theirs: [MODEL:]rpm=5000,tpm=2M.", show_default=False)
    ] = None,
    traffic: Annotated[
        list[str] | None,
        typer.Option(metavar="FACTOR", help="More or less of it: x2, client:NAME=x2.", show_default=False),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Without this key or account.", show_default=False)
    ] = None,
    client_weight: Annotated[
        list[str] | None, typer.Option(metavar="WEIGHT", help="A client's: NAME=2.", show_default=False)
    ] = None,
    client_priority: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="A client's: NAME=high, normal or batch.", show_default=False),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="LIMIT", help="Another one: ACCOUNT.MODEL.tpm=2M, ACCOUNT.tpm=2M.", show_default=False),
    ] = None,
    outage: Annotated[
        list[str] | None,
        typer.Option(metavar="OUTAGE", help="ACCOUNT, or ACCOUNT=14:00..15:30.", show_default=False),
    ] = None,
    max_wait: Annotated[list[str] | None, typer.Option(help="How long requests wait.", show_default=False)] = None,
    tokens: Annotated[
        int | None, typer.Option(help="That a request uses, if the log has none.", min=0, show_default=False)
    ] = None,
    most: Annotated[int, typer.Option(help="Replay at most the last so many.", min=1, max=10_000_000)] = 500_000,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 1,
    json: JsonOption = False,
) -> None:
    """Replay past traffic on a changed pool: waits, refusals, cost.

    Beside what was recorded stands the same traffic on the pool as it is, so that the comparison is fair. Options of
    changes may be combined, and those that name something repeated.
    """
    from quotapool.cli.plan import Question, run
    from quotapool.plan.changes import Changes

    changes = Changes(
        _once("--add-accounts", add_accounts) or 0,
        _once("--tier", tier),
        _once("--like", like),
        limits=tuple(limits or ()),
        traffic=tuple(traffic or ()),
        without=tuple(without or ()),
        weights=tuple(client_weight or ()),
        priorities=tuple(client_priority or ()),
        limit=tuple(limit or ()),
        outages=tuple(outage or ()),
        max_wait=_once("--max-wait", max_wait),
    )
    asked = Question(source, since, until, changes, tokens, most, seed)
    raise typer.Exit(run(settings_or_exit(config, env_file), asked, as_json=json))


def _once(option: str, given: Sequence[T] | None) -> T | None:
    """The value of an option that would otherwise be the last one that was given."""
    if given and len(given) > 1:
        raise typer.Exit(fail(f"{option} {given[-1]}: was given before, as {given[0]}; it may be given once"))
    return given[0] if given else None


@app.command(rich_help_panel=LOOK)
def logs(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    last: Annotated[int, typer.Option(help="How many requests.", min=0, max=100_000)] = 50,
    client: Annotated[str | None, typer.Option(help="Only requests of this client.", show_default=False)] = None,
    key: Annotated[str | None, typer.Option(help="Only requests that tried this key.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Only requests for this model.", show_default=False)] = None,
    code: Annotated[
        str | None,
        typer.Option(help="Only requests with this error code of the proxy, or reason of OpenAI.", show_default=False),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Only requests that were refused, failed or cut.")] = False,
    waited: Annotated[bool, typer.Option("--waited", help="Only requests that waited in the queue.")] = False,
    retried: Annotated[bool, typer.Option("--retried", help="Only requests with more than one attempt.")] = False,
    cache: Annotated[
        str | None,
        typer.Option(help="Only requests that were a hit, miss, coalesced or bypass of the cache.", show_default=False),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then show new ones as they end, until Ctrl-C.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, for programs.")] = False,
) -> None:
    """Show the last requests: who, which model, what came of each.

    Those of all replicas, with their duration, tokens, cost and keys. Prompts and answers are kept nowhere.
    """
    from quotapool.cli.logs import run
    from quotapool.shapes.requests import RequestQuery, cache_result

    if cache is not None and cache_result(cache) is None:
        raise typer.BadParameter("is hit, miss, coalesced or bypass", param_hint="--cache")
    settings = settings_or_exit(config, env_file)
    query = RequestQuery(last, client, key, model, code, errors, waited, retried, cache_result(cache))
    raise typer.Exit(run(settings, query, as_json=json, follow=follow))


@app.command(rich_help_panel=LOOK)
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
            help="Instead, say what would happen to a request with this body (-: standard input). It is not sent.",
            show_default=False,
        ),
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="For --dry-run: the client whose request it is.", show_default=False)
    ] = None,
    endpoint: Annotated[str, typer.Option(help="For --dry-run: the path that is called.")] = "/v1/chat/completions",
    json: JsonOption = False,
) -> None:
    """Say why a request was refused, failed or slow, and what helps.

    It names who used what the request was short of. With --dry-run: what would happen to a request now.
    """
    if (request_id is None) is (dry_run is None):
        raise typer.BadParameter("give either a REQUEST_ID or --dry-run FILE")
    settings = settings_or_exit(config, env_file)
    if dry_run is not None:
        from quotapool.cli import dry_run as command

        raise typer.Exit(command.run(settings, dry_run, endpoint=endpoint, client=client, as_json=json))
    from quotapool.cli.explain import run

    raise typer.Exit(run(settings, request_id or "", as_json=json))


@app.command(rich_help_panel=LOOK)
def dashboard(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the link.")] = False,
) -> None:
    """Open the operators' page in a browser, logged in.

    The link that it prints works once, for a minute.
    """
    from quotapool.cli.dashboard import run

    raise typer.Exit(run(settings_or_exit(config, env_file), is_opened=not no_open))


@app.command(rich_help_panel=LOOK)
def events(
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Only events of this kind: state, brake, egress, outside_use, policy, operator …", show_default="all"
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            help="Only events about k/KEY, a/ACCOUNT, o/ORGANISATION, c/CLIENT or t/TEAM.", show_default="all"
        ),
    ] = None,
    since: Annotated[str, typer.Option(help="A span (90m, 24h, 7d), or a day or time (2026-11-01T15:00, UTC).")] = "7d",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then show new ones as they come, until Ctrl-C.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, for programs.")] = False,
) -> None:
    """Show what happened to keys, and which operator changed what.

    The pool keeps its last 10,000 events; the oldest is shown first.
    """
    from quotapool.cli.events import Form, run
    from quotapool.shapes.general import EventQuery

    form: Form = "csv" if csv else "json" if json else "lines"
    query = EventQuery(kind=kind, subject=subject)
    raise typer.Exit(run(settings_or_exit(config, env_file), query, since, form, follow=follow))
