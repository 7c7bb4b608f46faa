"""`quotapool init`: asks for what a first configuration needs, writes it, loads it, and says what to do next."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from quotapool.cli.errors import fail, warn
from quotapool.cli.new_files import Draft, drafted
from quotapool.cli.questions import answer_of
from quotapool.cli.typed_secrets import ask_for_secrets
from quotapool.keys.keyring import secrets_in
from quotapool.ledger.clients import new_key
from quotapool.settings import Address, ConfigError, Settings, UpstreamKey, default_key_id, load
from quotapool.settings.secret_kinds import not_of_openai
from quotapool.settings.values import check_name, check_upstream_secret, parse_address, sha256_hex
from quotapool.setup import compose_file, systemd_unit
from quotapool.setup.compose_file import ComposeFile
from quotapool.setup.first_configuration import STATE_DIR, FirstClient, FirstConfiguration, Secrets, base_url
from quotapool.setup.helm_values import helm_values
from quotapool.setup.needs import Needs, needs_of, written
from quotapool.setup.next_steps import compose_steps, systemd_steps
from quotapool.setup.systemd_unit import NotForAService, SystemdUnit

_KEYS: Final = "OPENAI_API_KEYS"
_ETC: Final = Path("/etc/quotapool")
_OPT: Final = ("/opt/quotapool/bin/quotapool",)  # of a service, where ours is in a directory that it does not see
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  from a service
_MOST_BYTES: Final = 16 * 2**20  # of a file of keys
_FIRST_CLIENT: Final = "app"
_SECRET_FROM: Final = 8  # characters: shorter ones are words of other texts
_INTERRUPTED: Final = 130


class _Refused(Exception):
    """Why nothing was written, with the remedy."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line."""

    path: Path
    keys: str | None
    from_env: bool
    listen: str | None
    client: str | None
    systemd: bool
    compose: bool
    helm: bool
    force: bool
    env_file: Path | None = None


@dataclass(slots=True)
class _Answers:
    """What was given or asked for. `keys`: a keys_file; "" if the keys stay in the environment (`from_env`)."""

    listen: Address
    client: str | None
    from_env: bool
    keys: str = ""


def run(options: Options) -> int:
    """The exit code: 2 if nothing was written, after the reason; 130 if it was interrupted."""
    try:
        _refuse_contradictions(options)
        if options.helm:
            return _print_values(options)
        if options.path.exists() and (options.systemd or options.compose) and not options.force:
            return _add_to(options.path, options)
        _refuse_taken(options)
        return _write_all(options, _answers(options))
    except KeyboardInterrupt:
        warn("interrupted: nothing was written")
        return _INTERRUPTED
    except (_Refused, NotForAService) as error:
        return fail(str(error))
    except ConfigError as error:
        return fail(f"{error}")
    except FileExistsError as error:
        return fail(_is_taken(Path(error.filename)))
    except OSError as error:
        return fail(f"{error.filename}: {(error.strerror or str(error)).lower()}; nothing was written")


def _refuse_contradictions(options: Options) -> None:
    if options.systemd + options.compose + options.helm > 1:
        raise _Refused("choose one of --systemd, --compose and --helm")
    if options.keys is not None and options.from_env:
        raise _Refused("choose one of --keys and --from-env")
    if options.path.is_dir():
        raise _Refused(f"{options.path} is a directory; name a file in it: {options.path / 'quotapool.yaml'}")
    if options.path.suffix not in {".yaml", ".yml"}:
        raise _Refused(f"{options.path}: the name of the configuration must end with .yaml")


def _refuse_taken(options: Options) -> None:
    """Before anybody has typed a key."""
    if not options.force:
        for name in _names(options):
            if os.path.lexists(options.path.parent / name):
                raise _Refused(_is_taken(options.path.parent / name))


def _is_taken(path: Path) -> str:
    return f"{path} exists already, and was left as it is; --force overwrites it"


def _secrets_of(options: Options) -> Secrets:
    return "environment" if options.from_env else "env_file" if options.compose else "keys_file"


def _secrets_file(options: Options) -> Path:
    return options.path.with_suffix(".env" if options.compose else ".keys")


def _names(options: Options) -> list[str]:
    """The files that are going to be written."""
    names = [options.path.name]
    if not options.from_env:
        names.append(_secrets_file(options).name)
    if options.systemd:
        names.append(systemd_unit.NAME)
    if options.compose:
        names.append(compose_file.NAME)
    return names


# ---- what is asked


def _answers(options: Options) -> _Answers:
    """Raises _Refused."""
    try:
        listen = parse_address(options.listen or "127.0.0.1:8080")
    except ValueError as error:
        raise _Refused(f"--listen: {error}") from None
    try:
        client = None if options.client is None else check_name(options.client)
    except ValueError as error:
        raise _Refused(f"--client: {error}") from None
    answers = _Answers(listen, client, options.from_env)
    if options.keys is not None:
        answers.keys = _given_keys(options.keys)
    elif not options.from_env:
        _ask(answers, options)
    if answers.client is None and (options.compose or not answers.listen.is_loopback):
        answers.client = _FIRST_CLIENT
    return answers


def _given_keys(file: str) -> str:
    """The content of a file of keys, or of standard input (`-`). Raises _Refused."""
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                raw = opened.read(_MOST_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise _Refused(f"--keys: {file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise _Refused(f"--keys: {file}: is not UTF-8 text") from None
    if len(raw) > _MOST_BYTES:
        raise _Refused(f"--keys: {file}: is larger than 16 MiB")
    return text if text.endswith("\n") else f"{text}\n"


def _checked(secret: str) -> str:
    """Of OpenAI's, since the configuration has no other upstream yet. Raises ValueError."""
    checked = check_upstream_secret(SecretStr(secret)).get_secret_value()
    if problem := not_of_openai(checked):
        raise ValueError(problem)
    return checked


def _ask(answers: _Answers, options: Options) -> None:
    if not sys.stdin.isatty():
        raise _Refused(
            f"no terminal to ask for keys: give --from-env (they are in {_KEYS}), "
            "or --keys FILE (one a line; -: standard input)"
        )
    names = ", ".join(_names(options))
    warn(f"this writes {names} into {options.path.absolute().parent}; Ctrl-C writes nothing")
    if os.environ.get(_KEYS, "").strip() and answer_of(
        f"{_KEYS} is set. Should the keys stay there, and be in no file?", default=True
    ):
        answers.from_env = True
    else:
        answers.keys = _asked_keys()
    if options.listen is None and not options.compose:
        here = answers.listen
        if answer_of("May other machines call the proxy? They need a key, and one is made", default=False):
            answers.listen = Address("0.0.0.0", here.port)


def _asked_keys() -> str:
    found: dict[str, None] = {}

    def take(text: str) -> str:
        try:
            secret = _checked(text)
        except ValueError as error:
            return f"not taken: {error}"
        if secret in found:
            return "not taken: the same key as before"
        found[secret] = None
        return f"taken: {default_key_id(secret)}"

    warn("the OpenAI keys of the pool, one a line; they are not shown. An empty line ends")
    ask_for_secrets("Key: ", take)
    if not found:
        raise _Refused("no key was given; nothing was written")
    return "".join(f"{secret}\n" for secret in found)


# ---- what is written


def _write_all(options: Options, answers: _Answers) -> int:
    """The configuration, its secrets, and what runs it: all of them or none."""
    options = replace(options, from_env=answers.from_env)
    path, secrets_file = options.path.absolute(), _secrets_file(options)
    env = dict(os.environ)
    if not options.from_env:
        env.pop(_KEYS, None)
    elif not env.get(_KEYS, "").strip() and options.env_file is None:
        raise _Refused(f"--from-env: {_KEYS} is not set; export {_KEYS}=sk-...,sk-...")
    key = None if answers.client is None else new_key()
    client = FirstClient(answers.client, sha256_hex(key)) if answers.client and key else None
    listen = Address("0.0.0.0", answers.listen.port) if options.compose else answers.listen
    state_dir = STATE_DIR if options.systemd or options.compose else None
    secrets = _secrets_of(options)
    text = FirstConfiguration(path.name, secrets, secrets_file.name, listen, client, state_dir, options.compose).text()
    with drafted(path.parent) as draft:
        if secrets != "environment":
            keys = _loaded_keys(
                draft.path, answers.keys, "standard input" if options.keys == "-" else options.keys or ""
            )
        if secrets == "keys_file":
            draft.add(secrets_file.name, answers.keys, 0o600)
        elif secrets == "env_file":
            draft.add(secrets_file.name, f"{_KEYS}={_joined(keys)}\n", 0o600)
        env_file = draft.path / secrets_file.name if secrets == "env_file" else options.env_file
        draft.add(path.name, text, 0o644 if options.systemd else None)
        settings = load(draft.path / path.name, env=env, env_file=env_file)
        found = _Configuration(path, settings, needs_of(written(text), settings).moved(draft.path, path.parent))
        steps = _add_what_runs_it(draft, options, found, everywhere=not answers.listen.is_loopback)
        draft.publish(force=options.force)
    for name in _names(options):
        print(f"wrote {options.path.parent / name}")
    if answers.client is not None:
        print(f"\nThe key of the client {answers.client}, shown this once; the configuration has its SHA-256:")
        print(f"  export OPENAI_BASE_URL={base_url(listen)}\n  export OPENAI_API_KEY={key}")
    if _KEYS in os.environ and not options.from_env:
        warn(f"{_KEYS} is set here, and its keys would be added to those of the file: unset {_KEYS}")
    _print_steps(steps)
    return 0


def _loaded_keys(directory: Path, text: str, source: str) -> tuple[UpstreamKey, ...]:
    """The keys of a keys_file that has this text; no line of it may be wrong. Raises _Refused, naming `source`."""
    file = directory / "given.keys"
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
    try:
        return load(None, env={"QUOTAPOOL_KEYS_FILE": str(file), "QUOTAPOOL_BAD_KEY_LINES": "refuse"}).keys
    except ConfigError as error:
        raise _Refused(f"{error}".replace(str(file), source)) from None
    finally:
        file.unlink()


def _joined(keys: Sequence[UpstreamKey]) -> str:
    if any(key.id != default_key_id(key.secret.get_secret_value()) or key.account != key.id for key in keys):
        raise _Refused(
            "--compose: a variable has no place for ids and accounts; give --keys a file with one key a line"
        )
    return ",".join(key.secret.get_secret_value() for key in keys)


def _add_to(path: Path, options: Options) -> int:
    """To a configuration that is there already: what runs it."""
    if options.keys is not None or options.from_env or options.listen is not None or options.client is not None:
        raise _Refused(f"{_is_taken(path)}. Without other options {_form(options)} is for that one")
    settings, text = load(path, env=os.environ, env_file=options.env_file), path.read_text(encoding="utf-8-sig")
    values = written(text)
    _refuse_plain_secrets(path, text, values, settings)
    needs = needs_of(values, settings)
    with drafted(path.absolute().parent) as draft:
        everywhere = not settings.listen.is_loopback
        steps = _add_what_runs_it(
            draft, options, _Configuration(path.absolute(), settings, needs), everywhere=everywhere
        )
        draft.publish(force=False)
    print(f"wrote {path.parent / (systemd_unit.NAME if options.systemd else compose_file.NAME)}")
    _print_steps(steps)
    return 0


def _refuse_plain_secrets(path: Path, text: str, values: dict[str, Any], settings: Settings) -> None:
    """A service and a container run as somebody else, who has to be able to read the configuration."""
    store_url = settings.redis.get_secret_value() if settings.redis else ""
    secrets = [*secrets_in(settings, store_url)]
    secrets += [str(client["key"]) for client in values.get("clients") or () if "${" not in client.get("key", "${")]
    if any(secret in text for secret in secrets if len(secret) >= _SECRET_FROM):
        raise _Refused(f"{path} has secrets in it, and others will have to read it: write ${{NAME}} instead")


def _form(options: Options) -> str:
    return "--systemd" if options.systemd else "--compose"


@dataclass(frozen=True, slots=True)
class _Configuration:
    """A configuration that was loaded, and where it is going to be."""

    path: Path
    settings: Settings
    needs: Needs


def _add_what_runs_it(draft: Draft, options: Options, found: _Configuration, *, everywhere: bool) -> list[str]:
    """A unit or a compose file into the draft; the commands that come next. Raises NotForAService."""
    shown = shlex.quote(str(options.path))
    if options.compose:
        name = found.path.with_suffix(".env").name
        is_there = (draft.path / name).exists() or (found.path.parent / name).exists()
        made = ComposeFile(found.path, found.settings, found.needs, everywhere, name if is_there else None)
        draft.add(compose_file.NAME, made.text())
        return compose_steps(options.path.parent / compose_file.NAME, made.inside)
    if not options.systemd:
        env_file = f" --env-file {shlex.quote(str(options.env_file))}" if options.env_file else ""
        return [
            f"quotapool check --config {shown}{env_file}",
            f"quotapool serve --config {shown}{env_file}",
        ]
    program = _program()
    home = found.path.parent if found.path.is_relative_to("/etc") else _ETC
    unit = SystemdUnit(program, home / found.path.name, found.settings, found.needs.moved(found.path.parent, home))
    draft.add(systemd_unit.NAME, unit.text(), 0o644)
    return systemd_steps(unit, found.path, found.needs, is_installed=program != _OPT)


def _program() -> tuple[str, ...]:
    """How a service starts us: as we were installed, unless that is where a service cannot look."""
    script = Path(sys.executable).parent / "quotapool"
    words = (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "quotapool")
    places = (Path(words[0]), Path(words[0]).resolve(), Path(sys.executable).resolve())
    return _OPT if any(place.is_relative_to(hidden) for place in places for hidden in _HIDDEN) else words


def _print_steps(steps: Sequence[str]) -> None:
    print("\nNext:")
    for step in steps:
        print(f"  {step}")


def _print_values(options: Options) -> int:
    """A Helm values file on standard output; nothing is written."""
    if options.path.exists():
        text = options.path.read_text(encoding="utf-8-sig")
        settings = load(options.path, env=os.environ, env_file=options.env_file)
        values = written(text)
        _refuse_plain_secrets(options.path, text, values, settings)
        made = helm_values(values, needs_of(values, settings))
        if not settings.clients and not settings.allow_anonymous:
            warn("no clients: are configured, and pods are reached by others: they will not start without")
    else:
        key, name = new_key(), options.client or _FIRST_CLIENT
        first = FirstConfiguration(
            options.path.name, "environment", "", Address("0.0.0.0", 8080), FirstClient(name, sha256_hex(key))
        )
        made = helm_values(written(first.text()), Needs((_KEYS,), ()))
        warn(f"the key of the client {name}, shown this once: {key}")
    print(made, end="")
    return 0
