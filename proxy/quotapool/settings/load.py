"""Loads Settings from the file, the environment and the command line, or reports everything wrong with them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from quotapool.settings import tree
from quotapool.settings.dashboard import warnings_of
from quotapool.settings.document import read_document
from quotapool.settings.draft import Draft
from quotapool.settings.environment import (
    CONFIG,
    DEFAULTS,
    apply_overrides,
    file_named,
    fill_in,
    read_variables,
)
from quotapool.settings.errors import ConfigError, Option, Place, nearest, shown
from quotapool.settings.forward_proxy import from_environment
from quotapool.settings.keys import gather_keys
from quotapool.settings.model import Origin, Settings, UpstreamKey, default_state_dir, home_of
from quotapool.settings.places import places_of
from quotapool.settings.traces import NEEDS_PACKAGES, is_installed
from quotapool.settings.traces import from_environment as traces_from_environment
from quotapool.settings.unknown_names import names_in
from quotapool.settings.values import Address, sha256_hex

_PATHS: Final = frozenset(
    {"state_dir", "keys_file", "ca_file", "secret_file", "master_key_file", "cert_file", "key_file"}
)
_SECRETS: Final = frozenset({"secret", "key", "admin_token", "master_key", "session_key", "client_secret"})
_SHOWN: Final = 5  # names in one warning
_NO_MASTER_KEY: Final = (
    "answers in a shared store need a master key that every replica has, and none is configured. Make one "
    "(openssl rand -base64 32) and give it to all by master_key: ${NAME} or master_key_file: PATH"
)
_LITERAL_FROM: Final = 20  # characters: shorter ones are test keys


def load(
    config: Path | None,
    *,
    env: Mapping[str, str],
    env_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The configuration, or a ConfigError that lists every problem found.

    Later ones win: defaults, the file named by QUOTAPOOL_DEFAULTS (an image's own), the file (`config`, else the one
    named by QUOTAPOOL_CONFIG), `env_file`, `env`, `overrides` (dotted option to value, from the command line; None: not
    given). Relative paths in a file are relative
    to its directory, others to the current one. An empty variable counts as not set.
    """
    draft = Draft()
    variables = read_variables(env, env_file, draft)
    if config is None:
        config = file_named(CONFIG, variables)
    if config is not None:
        draft.files.append(config)
        if not read_document(config, draft):
            raise ConfigError(draft.problems)
        _advise_on_literals(draft)
        _refuse_written_master_key(draft)
    if (defaults := file_named(DEFAULTS, variables)) is not None:
        _lay_beneath(draft, defaults)
    used = fill_in(draft, variables)
    values = {name: variable.value for name, variable in variables.items()}
    home = home_of(values)
    _anchor_paths(draft.values, config.absolute().parent if config else Path.cwd(), home)
    apply_overrides(draft, variables, used)
    for name, value in (overrides or {}).items():
        if value is not None:
            plain = str(value) if isinstance(value, Path) else value
            draft.put(tuple(name.split(".")), plain, Place("command line"))
    _anchor_paths(draft.values, Path.cwd(), home)
    if draft.values.get("state_dir") is None:
        draft.values["state_dir"] = default_state_dir(values)
    if isinstance(file := draft.values.get("master_key_file"), str):
        draft.files.append(Path(file))
    if draft.values.get("upstream_proxy") is None:
        _take_proxy_from_environment(draft, values)
    _take_traces_from_environment(draft, values)
    gather_keys(draft, variables)
    return _checked(draft)


def _lay_beneath(draft: Draft, defaults: Path) -> None:
    """Take from this file the options that the draft does not have."""
    beneath = Draft(files=[defaults])
    read_document(defaults, beneath)
    draft.files += beneath.files
    draft.problems += beneath.problems
    for name in beneath.values.keys() - draft.values.keys():
        draft.put((name,), beneath.values[name], beneath.places[name,])


def _take_proxy_from_environment(draft: Draft, values: Mapping[str, str]) -> None:
    found = from_environment(lambda name: values.get(name, ""))
    if found is not None:
        name, option = found
        draft.put(("upstream_proxy",), option, Place(f"environment variable {name}"))


def _take_traces_from_environment(draft: Draft, values: Mapping[str, str]) -> None:
    written = draft.values.get("traces")
    own = written if isinstance(written, dict) else {}
    if written is None or own is written:  # else it is refused as it is
        found, warnings = traces_from_environment(
            lambda name: values.get(name, ""), has_endpoint=own.get("endpoint") is not None
        )
        draft.warnings += warnings
        for name, (value, place) in found.items():
            if own.get(name) is None:
                draft.put(("traces", name), value, place)


def _checked(draft: Draft) -> Settings:
    settings = None
    try:
        settings = Settings.model_validate(draft.values)
    except ValidationError as error:
        draft.refuse_invalid(error, Settings)
    for option, message, hint in _contradictions(settings) if settings else ():
        draft.refuse(option, message, nearest=hint)
    if draft.problems or settings is None:
        # Raised outside `except`: a traceback must not include pydantic's error, which may contain a secret.
        raise ConfigError(draft.problems)
    if settings.upstream.startswith("http:") and not _is_local(settings.upstream):
        draft.warnings.append("upstream: http:// sends the pool's keys over the network unencrypted")
    for key in settings.keys:
        if key.upstream and key.upstream.url.startswith("http:") and not _is_local(key.upstream.url):
            draft.warnings.append(f"the upstream of {key.id}: http:// sends its secret over the network unencrypted")
    draft.warnings += warnings_of(settings.dashboard)
    draft.warnings += _cache_warnings(settings)
    draft.warnings += settings.traces.warnings()
    if settings.tls is not None:
        draft.files += [settings.tls.cert_file, settings.tls.key_file]
    files, warnings = tuple(dict.fromkeys(draft.files)), tuple(draft.warnings)
    places = places_of(draft.places) | draft.sources
    settings._origin = Origin(files, warnings, names_in(settings, draft), places, time.time())  # noqa: SLF001  # the only place that sets it
    return settings


def _contradictions(settings: Settings) -> Iterator[tuple[Option, str, str | None]]:
    """Options that are each valid but do not fit together: (option, message, nearest real name)."""
    if settings.listen == settings.admin_listen and settings.listen.port:
        yield ("admin_listen",), "is the same address as listen; operators need a separate port", None
    if settings.dashboard.oidc is not None and find_spec("joserfc") is None:
        yield ("dashboard", "oidc"), "needs the package joserfc: pip install 'quotapool[oidc]'", None
    if settings.traces.endpoint is not None and not is_installed():
        yield ("traces", "endpoint"), NEEDS_PACKAGES, None
    if settings.tls is not None and (problem := settings.tls.problem()) is not None:
        yield ("tls", problem[0]), problem[1], None
    bases: list[tuple[Option, str]] = [(("upstream",), settings.upstream)]
    bases += [(("keys", n, "upstream"), key.upstream.url) for n, key in enumerate(settings.keys) if key.upstream]
    for option, base in bases:
        if _is_itself(base, settings.listen):
            yield option, "is this proxy's own address (listen); it must be OpenAI's, or another server's", None
    for name, account in settings.accounts.items():
        if account.tier is not None and account.tier not in settings.tiers:
            hint = nearest(account.tier, settings.tiers)
            yield ("accounts", name, "tier"), "there is no such tier under tiers:", hint
    organizations: dict[str, int] = {}
    for index, admin_key in enumerate(settings.admin_keys):
        if (first := organizations.setdefault(admin_key.organization, index)) != index:
            yield ("admin_keys", index, "organization"), f"is the same organization as admin_keys[{first}]", None
    if settings.cache.models and settings.redis is not None and not _has_master_key(settings):
        yield ("cache", "models"), _NO_MASTER_KEY, None
    if settings.import_limits and not settings.admin_keys:
        yield ("import_limits",), "needs admin_keys: only an admin key (sk-admin-...) may read a project's limits", None
    group_of: dict[str, str] = {}
    for group, models in settings.groups.items():
        for index, model in enumerate(models):
            if (other := group_of.setdefault(model, group)) != group:
                yield ("groups", group, index), f"this model is also in the group {other}", None
    elsewhere: dict[str, UpstreamKey] = {}
    for index, key in enumerate(settings.keys):
        first_key = elsewhere.setdefault(key.account, key)
        if first_key.upstream != key.upstream:
            message = f"differs from that of {first_key.id} in the same account; give this key an account of its own"
            yield ("keys", index, "upstream"), message, None
    upstream = {sha256_hex(key.secret.get_secret_value()): key.id for key in settings.keys}
    ids: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for index, client in enumerate(settings.clients):
        if (first := ids.setdefault(client.id, index)) != index:
            yield ("clients", index, "id"), f"is the same id as clients[{first}]", None
        if (first := hashes.setdefault(client.key_hash, index)) != index:
            yield ("clients", index), f"has the same key as clients[{first}]", None
        if client.team is not None and client.team not in settings.teams:
            yield ("clients", index, "team"), "there is no such team under teams:", nearest(client.team, settings.teams)
        if client.key_hash in upstream:
            message = f"has the upstream key {upstream[client.key_hash]}; clients must not have OpenAI's secrets"
            yield ("clients", index), message, None


def _has_master_key(settings: Settings) -> bool:
    return settings.master_key is not None or settings.master_key_file is not None


def _cache_warnings(settings: Settings) -> Iterator[str]:
    """Options of the cache that do less than they seem to."""
    teamless = [client.id for client in settings.clients if client.team is None]
    if settings.cache.models and settings.cache.scope == "team" and teamless:
        names = ", ".join(teamless[:_SHOWN]) + (f" and {len(teamless) - _SHOWN:,} more" * (len(teamless) > _SHOWN))
        yield f"cache.scope: clients without a team share answers with nobody, as with scope: client: {names}"
    asking = [n for n, client in enumerate(settings.clients) if client.cache]
    if asking and not settings.cache.models:
        yield f"clients[{asking[0]}].cache: true does nothing while cache.models names no model"


def _advise_on_literals(draft: Draft) -> None:
    """Warn once about secrets that are in the file itself."""
    written = list(_literals(draft.values, ()))
    if not written:
        return
    where = f"{draft.place_of(written[0])}: {shown(written[0])}"
    if len(written) == 1:
        draft.warnings.append(f"{where}: this secret is in the file itself; use ${{NAME}} to keep it out")
        return
    more = f"{where} and {len(written) - 1:,} more: these secrets are in the file itself"
    draft.warnings.append(f"{more}; use ${{NAME}}, secret_file or keys_file to keep them out")


def _literals(value: Any, option: Option) -> Iterator[Option]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _literals(item, (*option, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _literals(item, (*option, index))
    elif _is_literal_secret(value, option):
        yield option


def _refuse_written_master_key(draft: Draft) -> None:
    """It protects the secrets in the store; written next to the store's address it would protect nothing."""
    value = draft.values.get("master_key")
    if isinstance(value, str) and "${" not in value:
        draft.refuse(("master_key",), "must come from the environment, as ${NAME}; or use master_key_file: PATH")


def _is_literal_secret(value: Any, option: Option) -> bool:
    if not isinstance(value, str) or len(value) < _LITERAL_FROM or "${" in value:
        return False
    is_secret = option[-1] in _SECRETS or option[:2] == ("traces", "headers")
    return is_secret and tree.at(Settings, option) is not None


def _anchor_paths(value: Any, base: Path, home: Path) -> None:
    """Make the paths under path options absolute, in place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        if name in _PATHS and isinstance(item, str) and item.strip():
            path = home / item.strip()[2:] if item.strip().startswith("~/") else Path(item.strip())
            value[name] = str(_without_dots(base / path))
        else:
            _anchor_paths(item, base, home)


def _without_dots(path: Path) -> Path:
    """The same place without `..`. Only what is before the last of these is followed: links behind it stay as they were
    written, since files that are replaced by another link have to be read through that."""
    if ".." not in path.parts:
        return path
    last = len(path.parts) - path.parts[::-1].index("..")
    try:
        return Path(*path.parts[:last]).resolve().joinpath(*path.parts[last:])
    except (OSError, RuntimeError):  # links in a circle
        return path


def _is_itself(upstream: str, listen: Address) -> bool:
    url = urlsplit(upstream)
    if (url.port or {"http": 80, "https": 443}[url.scheme]) != listen.port:
        return False
    return url.hostname == listen.host or (_is_local(upstream) and (listen.is_loopback or listen.is_any))


def _is_local(url: str) -> bool:
    return Address(urlsplit(url).hostname or "", 0).is_loopback
