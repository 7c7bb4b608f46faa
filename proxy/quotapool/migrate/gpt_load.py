"""gpt-load 1.x: groups of upstream keys, and the proxy keys that clients call with.

Facts, all from the repository tbphp/gpt-load:
- internal/models/types.go: the tables `groups` and `api_keys`; a key is `active` or `invalid`; `upstreams` is a JSON
  list of {url, weight}; `model_redirect_rules` maps the client's model to upstream's, and with `model_redirect_strict`
  no other model is served; a group of type `aggregate` has no keys of its own.
- internal/encryption/encryption.go and DeriveAESKey in internal/utils: with ENCRYPTION_KEY, `key_value` is the
  hexadecimal form of 12 bytes of nonce and AES-256-GCM's output; the key is PBKDF2-HMAC-SHA-256 of ENCRYPTION_KEY with
  a fixed salt and 100,000 rounds. Without it, `key_value` is the secret, and `key_hash` its SHA-256.
- internal/channel/base_channel.go: `/proxy/GROUP` is cut off, and the rest appended to the upstream's URL.
- internal/services/key_service.go: an export has one secret a line.
- The keys of `proxy_keys`, separated by commas, call one group; those of the table `system_settings` call all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quotapool.migrate.database import Database, Row, rows
from quotapool.migrate.found import (
    FoundClient,
    FoundKey,
    FoundTeam,
    NotTaken,
    SourceError,
    digest,
    id_of,
    json_of,
    mark_of,
    names_of,
    shown,
    words,
)
from quotapool.operators.key_file import read as read_lines

_SALT: Final = b"gpt-load-encryption-v1"
_ROUNDS: Final = 100_000
_NONCE: Final = 12
_SEALED: Final = re.compile(r"(?:[0-9a-f]{2}){29,}")  # a nonce, a tag, and a byte at least
_OPENAI: Final = frozenset({"openai", "openai-response"})  # whose API these two channel types speak
_SETTINGS: Final = {
    "param_overrides": "fields that it set in every request body",
    "header_rules": "headers that it set or removed",
}
_TOO_SHORT: Final = 16


class GptLoad:
    """A database. `encryption_key`: its ENCRYPTION_KEY, "" if it had none. `only`: names of groups; none: all."""

    def __init__(self, database: Database, encryption_key: str, only: frozenset[str]) -> None:
        self._database = database
        self._encryption_key = encryption_key
        self._cipher: AESGCM | None = None
        self._groups: dict[Any, Row] = {}
        self._only = only

    def read_keys(self) -> Iterator[FoundKey | NotTaken]:
        needed = ("name", "upstreams", "channel_type")
        also = ("group_type", "test_model", "model_redirect_rules", "model_redirect_strict", "proxy_keys", *_SETTINGS)
        for row in rows(self._database, "groups", needed, also=also, key="id"):
            if not self._only or row["name"] in self._only:
                self._groups[row["id"]] = row
        made: dict[Any, dict[str, Any]] = {}
        for number, group in self._groups.items():
            yield from _left_out(group)
            if (why := _not_served(group)) is None:
                made[number] = _of_group(group)
                yield from _other_upstreams(group)
            elif group["group_type"] == "aggregate":
                yield NotTaken("setting", _origin(group), why)
        yield from self._keys(made)

    def _keys(self, made: dict[Any, dict[str, Any]]) -> Iterator[FoundKey | NotTaken]:
        left: dict[Any, int] = {}
        opened = closed = 0
        for row in rows(self._database, "api_keys", ("key_value", "group_id"), also=("status", "key_hash"), key="id"):
            group = row["group_id"]
            if group not in made:
                left[group] = left.get(group, 0) + 1
                continue
            secret = self._secret(row)
            if secret is None:
                closed += 1
                continue
            opened += 1
            yield FoundKey(secret=secret, disabled=row["status"] not in {"active", None}, **made[group])
        if closed and not opened:
            raise SourceError(
                "none of the keys can be opened: this is not the ENCRYPTION_KEY that they were sealed with"
            )
        if closed:
            why = "they are sealed with another ENCRYPTION_KEY, or damaged"
            yield NotTaken("key", "api_keys", why, closed)
        for group, count in left.items():
            if group in self._groups:
                why = _not_served(self._groups[group]) or ""
                yield NotTaken("key", _origin(self._groups[group]), why, count)
            elif not self._only:
                yield NotTaken("key", f"group {group}", "there is no such group", count)

    def _secret(self, row: Row) -> str | None:
        """None: it cannot be opened. Raises SourceError if it is sealed, and no key was given."""
        text = str(row["key_value"])
        if not _SEALED.fullmatch(text) or row["key_hash"] == hashlib.sha256(text.encode()).hexdigest():
            return text
        if not self._encryption_key:
            raise SourceError(
                "the keys are encrypted: put gpt-load's ENCRYPTION_KEY into the environment here, and name that "
                "variable with --encryption-key-env"
            )
        if self._cipher is None:
            password = self._encryption_key.encode()
            self._cipher = AESGCM(hashlib.pbkdf2_hmac("sha256", password, _SALT, _ROUNDS, dklen=32))
        raw = bytes.fromhex(text)
        try:
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], None).decode()
        except (InvalidTag, UnicodeDecodeError):
            return None

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]:
        return iter(())

    def read_clients(self) -> Iterator[FoundClient | NotTaken]:
        """A key of several groups is one client, which may use the keys of all of them."""
        groups: dict[str, set[str] | None] = {}
        if "setting_key" in self._database.columns("system_settings"):
            for row in rows(self._database, "system_settings", ("setting_key", "setting_value"), key="id"):
                if row["setting_key"] == "proxy_keys":
                    groups.update(dict.fromkeys(words(row["setting_value"], ",\n")))
        for group in self._groups.values():
            for key in words(group["proxy_keys"], ",\n"):
                if (known := groups.setdefault(key, set())) is not None:
                    known.add(group["name"])
        for key, its in groups.items():
            first = "all groups" if its is None else min(its)
            origin = f"proxy key of {shown(first)}" + (f" and {len(its) - 1} more" if its and len(its) > 1 else "")
            hashed = digest(key)
            if len(key) < _TOO_SHORT:
                yield NotTaken(
                    "client", origin, f"its key has fewer than {_TOO_SHORT} characters, and could be guessed"
                )
                continue
            name = "gpt-load" if its is None else first
            notes = "from gpt-load" if its is None else f"from gpt-load: {', '.join(sorted(its))}"[:1_000]
            yield FoundClient(
                origin,
                id_of(name, mark_of(hashed)),
                hashed,
                {"name": shown(name), "notes": notes},
                groups=None if its is None else tuple(sorted(its)),
            )


class KeyLines:
    """An export of keys: one secret a line. They are the pool's own upstream's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_keys(self) -> Iterator[FoundKey | NotTaken]:
        try:
            with self._path.open(encoding="utf-8") as lines:
                for line in read_lines(lines):
                    if line.entry is None:
                        yield NotTaken("key", f"line {line.number}", line.problem)
                    else:
                        yield FoundKey(f"line {line.number}", line.entry.secret, is_open=True)
        except UnicodeDecodeError:
            raise SourceError(f"{self._path} is neither an SQLite database nor UTF-8 text") from None
        except OSError as error:
            raise SourceError(f"{self._path}: {error.strerror or error}") from None

    def read_teams(self) -> Iterator[FoundTeam | NotTaken]:
        return iter(())

    def read_clients(self) -> Iterator[FoundClient | NotTaken]:
        return iter(())


def _origin(group: Row) -> str:
    return f"group {shown(group['name'])}"


def _not_served(group: Row) -> str | None:
    """Why nothing of this group is taken; None: it is."""
    if group["group_type"] == "aggregate":
        return "it only joins other groups; here all keys that have a model serve it together"
    if group["channel_type"] not in _OPENAI:
        return f"its upstream speaks the API of {shown(group['channel_type'])}, not OpenAI's"
    if not _upstreams(group):
        return "it names no upstream"
    return None


def _upstreams(group: Row) -> list[tuple[str, float]]:
    """(URL, weight), the heaviest first."""
    found = [
        (str(one["url"]), float(weight) if isinstance(weight := one.get("weight"), int | float) else 1.0)
        for one in json_of(group["upstreams"]) or []
        if isinstance(one, dict) and one.get("url")
    ]
    return sorted(found, key=lambda one: -one[1])


def _other_upstreams(group: Row) -> Iterator[NotTaken]:
    if len(others := _upstreams(group)) > 1:
        why = f"a key has one upstream here, the first of the heaviest; {len(others) - 1} more were used beside it"
        yield NotTaken("setting", _origin(group), why)


def _of_group(group: Row) -> dict[str, Any]:
    """What its keys have in common."""
    models = names_of(group["model_redirect_rules"])
    strict = bool(group["model_redirect_strict"]) and bool(models)
    tested = str(group["test_model"] or "")
    if not strict and tested not in {"", "-"}:
        models = {tested: tested, **models}
    origin, groups = _origin(group), (group["name"],)
    return {"origin": origin, "url": _upstreams(group)[0][0], "models": models, "is_open": not strict, "groups": groups}


def _left_out(group: Row) -> Iterator[NotTaken]:
    for column, about in _SETTINGS.items():
        if json_of(group[column]):
            yield NotTaken("setting", _origin(group), about)
