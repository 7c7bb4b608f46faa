"""Which proxy a command is about: the one that runs on a state_dir, with the settings in force there.

A configuration that is given to the command takes precedence: --config, --env-file, or a variable that makes one
(`given_in`), unless the proxy was started with the same variable.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from quotapool import __version__
from quotapool.app import running_proxies
from quotapool.app.command_socket import PATIENCE_S, STATE_DIR, Answer, Head, NotAllowed, Silent, ask, given_in
from quotapool.cli.errors import warn
from quotapool.settings import ConfigError, Settings, from_wire, load, with_origin
from quotapool.settings.model import Origin, default_state_dir, home_of
from quotapool.store.address import parse
from quotapool.store.embedded import serving_process

_WAIT_S: Final = 20.0  # for a proxy that starts or stops
_AGAIN_S: Final = 0.1


class NoSettings(Exception):
    """Why the command cannot know what it is about, in words for whoever calls it."""


def settings_for(
    config: Path | None, env_file: Path | None, env: Mapping[str, str], *, wait_s: float | None = None
) -> Settings:
    """The configuration that is given, else that of the running proxy, else what is left without either: a store, and
    no keys of a configuration. Says on standard error whatever is not as usual. Raises NoSettings.

    `wait_s`: for a proxy that starts or stops; None: as long as usual. With a given configuration it is not needed.
    """
    named = next((f"--{name}" for name, at in (("config", config), ("env-file", env_file)) if at is not None), "")
    given = given_in(env)
    if not named:
        answer = _find(env, is_needed=not given, wait_s=wait_s)
        if answer is not None:
            named = next((name for name in given if answer.head.environment.get(name) != given[name]), "")
            if not named:
                return in_force(answer)
    nothing = not named and not given
    try:
        # With nothing given the state_dir has a store all the same, and keys in it.
        settings = load(config, env=env, env_file=env_file, overrides={"keys": []} if nothing else None)
    except ConfigError as error:
        raise NoSettings(f"{error}{_without(named, env)}") from None
    _say_if_other(settings, PATIENCE_S if wait_s is None else wait_s)
    return settings


def look(state_dir: Path, *, with_settings: bool = False, wait_s: float | None = None) -> Answer | None:
    """What the proxy of this state_dir says once it has started, for which it has `wait_s` (None: as long as usual);
    None: none runs, or the last one has just ended. Raises NotAllowed, Silent, and NoSettings if that is not enough."""
    deadline = time.monotonic() + (_WAIT_S if wait_s is None else wait_s)
    patience_s = PATIENCE_S if wait_s is None else min(wait_s, PATIENCE_S)
    while (
        answer := ask(state_dir, with_settings=with_settings, patience_s=patience_s)
    ) is not None and answer.head.phase:
        if time.monotonic() > deadline:
            raise NoSettings(f"{_proxy(state_dir, answer.pid)} is {answer.head.phase}; try again in a moment")
        time.sleep(_AGAIN_S)
    return answer


def at_once(state_dir: Path, patience_s: float = PATIENCE_S) -> Answer | None:
    """The same without waiting for a start or a stop, where it is not needed; None also if it cannot be asked, or does
    not answer within `patience_s`."""
    try:
        answer = ask(state_dir, with_settings=False, patience_s=patience_s)
    except (NotAllowed, Silent):
        return None
    return None if answer is None or answer.head.phase else answer


def is_running(state_dir: Path) -> bool:
    """Whether a proxy runs on it, one that hangs included."""
    try:
        return look(state_dir) is not None or serving_process(state_dir) is not None
    except (NotAllowed, Silent):
        return True


def not_allowed(state_dir: Path) -> str:
    """A sentence about somebody else's state_dir."""
    return f"{state_dir} belongs to {_owner(state_dir)}. Its proxy answers that user and root: {_as_owner(state_dir)}"


def refuse_root(state_dir: Path) -> None:
    """A store that root starts gets files that its owner's proxy cannot read. Raises NoSettings."""
    data = state_dir / "valkey"
    if os.geteuid() == 0 and data.exists() and data.stat().st_uid != 0:
        raise NoSettings(f"no proxy runs on {state_dir}, whose store belongs to {_owner(data)}: {_as_owner(data)}")


def silent(state_dir: Path, pid: int) -> str:
    """A sentence about a proxy that hangs."""
    return f"{_proxy(state_dir, pid)} does not answer"


def _find(env: Mapping[str, str], *, is_needed: bool, wait_s: float | None) -> Answer | None:
    """Raises NoSettings, unless other settings are there."""
    own, services = _places(env)
    is_named = bool(env.get(STATE_DIR, "").strip())
    try:
        if (answer := look(own, with_settings=True, wait_s=wait_s)) is not None:
            return answer
    except NotAllowed:
        problem = not_allowed(own)
    except NoSettings as error:
        if wait_s is None:
            raise
        problem = str(error)
    except Silent as error:
        problem = f"{silent(own, error.pid)}; --config gives this command a configuration of its own"
    else:
        problem = ""
    if problem:
        if is_needed:
            raise NoSettings(problem)
        return None
    hints = []
    for place in services:
        try:
            if (answer := look(place, with_settings=True, wait_s=wait_s)) is not None:
                return answer
        except NotAllowed:
            hints.append(not_allowed(place))
        except Silent as error:
            hints.append(silent(place, error.pid))
        else:
            if place.is_dir():
                hints.append(f"no proxy runs on {place} either; its store: {STATE_DIR}={place} quotapool …")
    if is_needed:
        _say_what_else(own, hints, is_named=is_named)
    return None


def _places(env: Mapping[str, str]) -> tuple[Path, list[Path]]:
    """Where to look: the state_dir of this environment; and, if it names none, those of services."""
    if named := env.get(STATE_DIR, "").strip():
        return (home_of(env) / named[2:] if named.startswith("~/") else Path.cwd() / named), []
    own = default_state_dir(env)
    systemd = [Path(part) for part in env.get("STATE_DIRECTORY", "").split(":") if part.startswith("/")]
    return own, [place for place in (*systemd, running_proxies.SERVICE) if place != own]


def _say_what_else(own: Path, hints: list[str], *, is_named: bool) -> None:
    """Nothing runs where we looked. Raises NoSettings if what was meant is probably elsewhere: nobody named this place,
    and nothing is there."""
    if (pid := serving_process(own)) is not None:
        warn(
            f"{_proxy(own, pid)} does not tell its settings: it is older than this command, or cannot have a socket "
            "there. Restart it, or give the --config and the variables that it was started with"
        )
        return
    hints += [
        f"a proxy runs on {place}: {STATE_DIR}={place} quotapool …"
        for place in running_proxies.state_dirs()
        if place != own
    ]
    if hints and not is_named and not own.exists():
        raise NoSettings("\n".join([f"no proxy runs on {own}", *hints]))
    for hint in hints:
        warn(hint)


def in_force(answer: Answer) -> Settings:
    """The settings that a proxy told. Raises NoSettings: it is of another version."""
    head, state_dir = answer.head, answer.state_dir
    try:
        settings = from_wire(answer.wire)
    except ValidationError:  # its text may have secrets
        raise NoSettings(
            f"{_proxy(state_dir, answer.pid)} is version {head.release}, and this command {__version__} "
            "does not understand its settings: use the same version for both, or give the command --config"
        ) from None
    settings = settings.model_copy(update={"state_dir": state_dir})
    return with_origin(settings, Origin(warnings=head.warnings, places=head.places, loaded_at=head.loaded_at))


def _say_if_other(settings: Settings, patience_s: float) -> None:
    """A given configuration may be about another pool than the proxy that runs on its state_dir."""
    answer = at_once(settings.state_dir, patience_s)
    if answer is None or is_same_pool(answer.head, settings):
        return
    theirs = _pool_words(answer.head.pool, answer.head.store)
    ours = _pool_words(settings.pool, store_words(settings))
    warn(
        f"{_proxy(settings.state_dir, answer.pid)} has {theirs}; this command is about {ours}, as its configuration "
        "says. Commands without one follow the proxy"
    )


def is_same_pool(head: Head, settings: Settings) -> bool:
    """Whether that proxy serves the pool of these settings."""
    return (head.pool, head.store) == (settings.pool, store_words(settings))


def store_words(settings: Settings) -> str:
    """Where the shared store is, without login; "": it is embedded."""
    return parse(settings.redis.get_secret_value()).describe() if settings.redis else ""


def _pool_words(pool: str, store: str) -> str:
    return f"the pool {pool} at {store}" if store else f"the pool {pool} in the embedded store"


def _without(named: str, env: Mapping[str, str]) -> str:
    """A line for a configuration that cannot be used, while there is a proxy that could be asked."""
    answer = at_once(_places(env)[0]) if named else None
    if answer is None:
        return ""
    return f"\nA proxy runs on {answer.state_dir}: without {named}, this command takes its settings"


def _proxy(state_dir: Path, pid: int) -> str:
    return f"the proxy that runs on {state_dir}{f' (process {pid})' if pid else ''}"


def _owner(state_dir: Path) -> str:
    """Of the first directory on the way that shows one."""
    for place in (state_dir, *state_dir.parents):
        try:
            uid = place.stat().st_uid
        except OSError:
            continue
        return f"the user {_user(uid) or uid}"
    return "another user"


def _as_owner(state_dir: Path) -> str:
    user = _owner(state_dir).removeprefix("the user ")
    return "sudo quotapool …" if user == "root" or user.isdigit() or " " in user else f"sudo -u {user} quotapool …"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
