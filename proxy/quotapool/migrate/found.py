"""What another program's data comes to here: keys, teams and clients, and what was not taken."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from quotapool.domain.periods import Per

_LONGEST_NAME: Final = 60  # characters of another program's name that are shown, or become part of an id
_NO_ID: Final = re.compile(r"[^A-Za-z0-9_.@-]+")
_HOURS: Final = {"s": 1 / 3600, "m": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0, "mo": 31 * 24.0}
_DURATION: Final = re.compile(r"(\d{1,9})(mo|[smhdw])")
# As long as each period lasts at least: a month of LiteLLM's 30 days is a calendar month here.
_PERIODS: Final = ((1.0, Per.HOUR), (24.0, Per.DAY), (168.0, Per.WEEK), (31 * 24.0, Per.MONTH))


class SourceError(Exception):
    """The source as a whole cannot be read; the message says why and what to do, without secrets."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """An upstream key. `url`: its upstream as it was written, "": OpenAI's own.

    `models`: the clients' name of each model that it serves -> upstream's name. `is_open`: it serves others too, which
    only its upstream could list. `groups`: those that could use it. `account`: settings of its account.
    """

    origin: str
    secret: str = field(repr=False)
    url: str = ""
    header: str = "bearer"
    models: Mapping[str, str] = field(default_factory=dict)
    is_open: bool = False
    groups: tuple[str, ...] = ()
    disabled: bool = False
    account: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundTeam:
    """What clients shared. `options`: those of `RuleOptions`."""

    origin: str
    id: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FoundClient:
    """A client with the SHA-256 of the key that it has. `options`: those of `ClientOptions`. `suspended`: why it is
    out, "": it is not. `groups`: it could use the keys of these only; None: all."""

    origin: str
    id: str
    key_hash: str
    options: Mapping[str, Any]
    suspended: str = ""
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """`what`: key, client, team or setting. `count`: how many of them this is about."""

    what: str
    origin: str
    why: str
    count: int = 1


def shown(name: object) -> str:
    """A name of another program, for people: short, and of characters that a terminal shows as they are."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(name or ""))
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def id_of(name: object, mark: object) -> str:
    """An id here: what can be kept of its name, and a mark that no other has."""
    slug = _NO_ID.sub("-", str(name or ""))[:_LONGEST_NAME].strip("-.")
    slug = re.sub(r"(?i)^(?:sk|sess)-", "", slug)  # looks like a secret
    return f"{slug or 'client'}-{mark}"


def mark_of(key_hash: str) -> str:
    """Eight hexadecimal digits that tell keys apart, as in the default id of an upstream key."""
    return key_hash[:8]


def digest(key: str) -> str:
    """How clients' keys are stored here: SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def words(text: object, separators: str = ",") -> list[str]:
    """The parts of a text that are not empty."""
    parts = re.split(f"[{re.escape(separators)}]", str(text or ""))
    return [part.strip() for part in parts if part.strip()]


def json_of(text: object) -> Any:
    """A JSON column: drivers give it as text, as bytes, or decoded. None if it is empty or broken."""
    if not isinstance(text, str | bytes):
        return text
    try:
        return msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def mapping_of(text: object) -> dict[str, Any]:
    """A JSON object; {} if it is none."""
    found = json_of(text)
    return found if isinstance(found, dict) else {}


def names_of(text: object) -> dict[str, str]:
    """A JSON object of texts, such as a table of model names."""
    return {name: real for name, real in mapping_of(text).items() if isinstance(real, str) and name and real}


def served(models: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Each model with the name that it has upstream; a chain of renamings is followed to its end."""
    found: dict[str, str] = {}
    for name in models:
        real, seen = name, {name}
        while (after := renamed.get(real)) is not None and after not in seen:
            real = after
            seen.add(after)
        found[name] = real
    return found


def period_of(duration: object) -> Per:
    """The shortest period of a budget here that is not shorter than `24h`, `7d`, `30d`, `1mo`: the same amount in a
    longer time never allows more. "": in all."""
    match = _DURATION.fullmatch(str(duration or "").strip().lower())
    if match is None:
        return Per.TOTAL
    hours = int(match[1]) * _HOURS[match[2]]
    return next((per for most, per in _PERIODS if hours <= most), Per.TOTAL)


def day_of(at: object) -> str | None:
    """The day (UTC) of Unix seconds, of a datetime or of its text; None: there is none. A client is refused from the
    beginning of this day on, which is never too late."""
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError:
            return None
    if isinstance(at, datetime):
        return (at.astimezone(UTC) if at.tzinfo else at).date().isoformat()
    if isinstance(at, int | float) and 0 < at < 253_402_300_800:  # the year 10000
        return datetime.fromtimestamp(at, UTC).date().isoformat()
    return None


def has_ended(day: str | None) -> bool:
    """Whether a client that expires on this day is refused already."""
    return day is not None and day <= datetime.now(UTC).date().isoformat()
