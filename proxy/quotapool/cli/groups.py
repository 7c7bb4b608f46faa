"""How commands are listed: in panels by task, with the same words for values; groups are imported when needed."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperGroup, TyperOption

# The panels of `quotapool --help`, from the top.
START: Final = "Start"
LOOK: Final = "Look"
POOL: Final = "Keys, clients, accounts"
FOR_PROGRAMS: Final = "For clients, containers and tests"
_PANELS: Final = (START, LOOK, POOL, FOR_PROGRAMS)

# What stands for the value of an option, by the option's name; else by its type.
_VALUES: Final = {
    **dict.fromkeys(("listen", "admin_listen", "address"), "HOST:PORT"),
    **dict.fromkeys(("upstream", "redis", "base_url"), "URL"),
    **dict.fromkeys(("since", "until"), "TIME"),
    **dict.fromkeys(("every", "overlap", "max_wait"), "SPAN"),
    **dict.fromkeys(("expires", "granted", "expires_on"), "DAY"),
    **dict.fromkeys(("name", "client", "account", "team", "tier", "state", "key", "model"), "NAME"),
    **dict.fromkeys(("rpm", "tpm", "rpd", "tpd", "concurrent"), "N"),
    "state_dir": "DIR",
    "dry_run": "FILE",
    "keys": "FILE",
    "endpoint": "PATH",
    "budget": "BUDGET",
}
_TYPES: Final = {Path: "FILE", int: "N", float: "N"}


class _Group(TyperGroup):
    """A group whose options, and whose commands' options, show what their values are."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.help = _unwrapped(command.help or "")
            if not isinstance(command, TyperGroup):
                _name_values([*command.params, command.get_help_option(ctx)])
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        _name_values(params)
        return params


def _unwrapped(text: str) -> str:
    """Paragraphs as one line each: a terminal wraps them by its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _name_values(params: list[Any]) -> None:
    for param in params:
        if isinstance(param, TyperOption) and param.metavar is None:
            param.metavar = value_of(param)


def value_of(option: TyperOption) -> str:
    """What stands for the value of `option` in help texts; "" for one that has none."""
    if option.is_flag:
        return ""
    kind = option.type_descriptor.annotation
    return _VALUES.get(option.name or "") or _TYPES.get(kind, "TEXT")


class Root(_Group):
    """The commands in the order of their panels."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            param.hidden = getattr(param, "hidden", False) or param.name == "show_completion"  # the list fits a screen
        return params

    def list_commands(self, ctx: Any) -> list[str]:
        commands: MutableMapping[str, Any] = self.commands
        panels = [*_PANELS, *(command.rich_help_panel for command in commands.values())]
        return sorted(super().list_commands(ctx), key=lambda name: panels.index(commands[name].rich_help_panel))


class LazyGroup(_Group):
    """Imports the module of its name when its commands are needed: a start and a health check are quick without."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """By name, from the `app` of the module."""
        return typer.main.get_group(import_module(f"quotapool.cli.{self.name}").app).commands

    @commands.setter
    def commands(self, _: MutableMapping[str, Any]) -> None:
        return
