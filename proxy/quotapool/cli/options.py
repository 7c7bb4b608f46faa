"""Options that many commands have, and the configuration they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quotapool.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; also QUOTAPOOL_CONFIG.", show_default=False)
]
EnvFileOption = Annotated[
    Path | None, typer.Option("--env-file", help="A .env file; the real environment wins.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def load_settings(config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None) -> Settings:
    """Raises ConfigError."""
    from quotapool.settings import load

    return load(config, env=os.environ, env_file=env_file, overrides=overrides)


def settings_or_exit(
    config: Path | None, env_file: Path | None, overrides: dict[str, object] | None = None
) -> Settings:
    """The configuration; ends the command with exit code 2 and the reason if it is invalid."""
    from quotapool.settings import ConfigError

    try:
        return load_settings(config, env_file, overrides)
    except ConfigError as error:
        typer.echo(f"quotapool: {error}", err=True)
        raise typer.Exit(2) from None
