"""The settings of a command that stays: others once the proxy has reloaded, or a configuration given to it changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quotapool.app.command_socket import NotAllowed, Silent
from quotapool.app.startup import stamps
from quotapool.cli.running import NoSettings, at_once, in_force, is_same_pool, look
from quotapool.settings import ConfigError, Settings, load


class Followed:
    """`settings`: what the command began with, by `settings_for(config, env_file, env)`."""

    def __init__(self, settings: Settings, config: Path | None, env_file: Path | None, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._given = config, env_file, env
        self._seen = stamps(settings.files)

    def changed(self) -> Settings | None:
        """Those that are new since the last call; None: none are, or none that are valid, and of the same pool and
        store. Blocks while it asks the proxy or reads files."""
        new = self._given_again() if self._settings.files else self._told_again()
        if new is None or (new.pool, new.redis) != (self._settings.pool, self._settings.redis):
            return None
        self._settings = new
        return new

    def _given_again(self) -> Settings | None:
        if (seen := stamps(self._settings.files)) == self._seen:
            return None
        config, env_file, env = self._given
        try:
            new = load(config, env=env, env_file=env_file)
        except ConfigError:  # the proxy refuses it, too
            self._seen = seen
            return None
        self._seen = stamps(new.files)
        return new

    def _told_again(self) -> Settings | None:
        before = self._settings
        answer = at_once(before.state_dir)
        if answer is None or answer.head.loaded_at == before.origin.loaded_at or not is_same_pool(answer.head, before):
            return None
        try:
            told = look(before.state_dir, with_settings=True)
            return None if told is None else in_force(told)
        except (NotAllowed, Silent, NoSettings):
            return None
