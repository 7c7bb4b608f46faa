"""Options that many commands have, and the configuration they lead to."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

if TYPE_CHECKING:
    from quotapool.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration; else QUOTAPOOL_CONFIG names it.", show_default=False),
]
EnvFileOption = Annotated[
    Path | None,
    typer.Option("--env-file", help="A file of NAME=value lines; the environment wins.", show_default=False),
]
NoCheckOption = Annotated[bool, typer.Option("--no-check", help="Do not ask OpenAI whether it is valid.")]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Allow a new secret for an id that was added before.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def configuration_or_exit(config: Path | None, env_file: Path | None, overrides: dict[str, object]) -> Settings:
    """The given configuration; ends the command with exit code 2 and the reason if it is invalid."""
    from quotapool.settings import ConfigError, load

    try:
        return load(config, env=os.environ, env_file=env_file, overrides=overrides)
    except ConfigError as error:
        typer.echo(f"quotapool: {error}", err=True)
        raise typer.Exit(2) from None


def settings_or_exit(config: Path | None, env_file: Path | None) -> Settings:
    """What a command is about: the given configuration, else the running proxy's; ends it with exit code 2 and the
    reason if there is neither."""
    from quotapool.cli.running import NoSettings, settings_for

    try:
        return settings_for(config, env_file, os.environ)
    except NoSettings as error:
        typer.echo(f"quotapool: {error}", err=True)
        raise typer.Exit(2) from None


def with_settings(run: Callable[..., int]) -> Callable[..., None]:
    """A command of `run`, whose first argument is the configuration, and whose result is the exit code.

    Its options are --config, --env-file, and the parameters of `run` that are `Annotated`.
    """

    @wraps(run)
    def command(config: Path | None, env_file: Path | None, **options: object) -> None:
        raise typer.Exit(run(settings_or_exit(config, env_file), **options))

    given: dict[str, Any] = {"config": ConfigOption, "env_file": EnvFileOption}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in given.items()
    ]
    parameters += [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(run, eval_str=True).parameters.values()
        if get_origin(parameter.annotation) is Annotated
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    return command
