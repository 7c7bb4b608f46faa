"""`quotapool keys`: its commands and their options. What they do is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quotapool.cli.options import ConfigOption, EnvFileOption, JsonOption, settings_or_exit

keys = typer.Typer(help="Upstream keys: show, add, change and probe them.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(help="The key's id.")]


@keys.command("list")
def keys_list(config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False) -> None:
    """Each key's state and reason, without asking upstream."""
    from quotapool.cli.keys import show

    raise typer.Exit(show(settings_or_exit(config, env_file), as_json=json))


@keys.command("enable")
def keys_enable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """Make a removed, quarantined, disabled or draining key active again."""
    from quotapool.cli.keys import act

    raise typer.Exit(act(settings_or_exit(config, env_file), "enable", key))


@keys.command("disable")
def keys_disable(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No requests until it is enabled."""
    from quotapool.cli.keys import act

    raise typer.Exit(act(settings_or_exit(config, env_file), "disable", key))


@keys.command("drain")
def keys_drain(key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None) -> None:
    """No new requests; running ones are completed. The same as disable, with another name for the intention."""
    from quotapool.cli.keys import act

    raise typer.Exit(act(settings_or_exit(config, env_file), "drain", key))


@keys.command("remove")
def keys_remove(
    key: KeyArgument,
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    delete: Annotated[
        bool, typer.Option("--forget", help="Delete it with its secret: a key that was added at run time.")
    ] = False,
) -> None:
    """Take it out permanently, also after restarts, until it is enabled or its secret changes."""
    from quotapool.cli.keys import act, forget

    settings = settings_or_exit(config, env_file)
    raise typer.Exit(forget(settings, key) if delete else act(settings, "remove", key))


@keys.command("probe")
def keys_probe(
    key: KeyArgument, config: ConfigOption = None, env_file: EnvFileOption = None, json: JsonOption = False
) -> None:
    """Ask OpenAI about one key now. Exit code 1 if it is not valid."""
    from quotapool.cli.keys import probe

    raise typer.Exit(probe(settings_or_exit(config, env_file), key, as_json=json))


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
            "shell keeps it. Pass it on standard input. If that was a real one, it should be replaced",
            err=True,
        )
        raise typer.Exit(2)
    raise typer.Exit(add(settings_or_exit(config, env_file), name, account, tier, check=not no_check, replace=replace))


@keys.command("import")
def keys_import(
    file: Annotated[Path, typer.Argument(help="One secret a line, or CSV with a first line of names.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
    no_check: NoCheckOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check, and store nothing.")] = False,
    replace: ReplaceOption = False,
    at_once: Annotated[int, typer.Option(min=1, max=1000, help="Checks at the same time.")] = 64,
    per_second: Annotated[float, typer.Option(min=0.1, help="Checks a second, at most.")] = 200.0,
    json: JsonOption = False,
    report: Annotated[Path | None, typer.Option(help="A file for the complete report.", show_default=False)] = None,
) -> None:
    """Add thousands of keys; may be repeated. Exit code 1 if a line's key is not in the pool afterwards."""
    from quotapool.cli.keys_import import run

    raise typer.Exit(
        run(
            settings_or_exit(config, env_file),
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
    new_file: Annotated[Path, typer.Option("--new-file", help="Has the new master key; created if it does not exist.")],
    config: ConfigOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Seal the keys that were added at run time with another master key, all or none."""
    from quotapool.cli.keys import rotate_master_key

    raise typer.Exit(rotate_master_key(settings_or_exit(config, env_file), new_file))


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

    raise typer.Exit(run(settings_or_exit(config, env_file), account, usd, granted=granted, expires=expires))
