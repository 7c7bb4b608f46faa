"""Collects what OpenAI reports of the pool's keys and accounts, with the configured admin keys and session keys.

What an admin key or a login may not read is explained once, and then not tried again until the secret changes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import aiohttp

from quotapool.openai_admin import billing_page
from quotapool.openai_admin.client import Organisation, admin_key_refused
from quotapool.openai_admin.json_reader import JsonReader, NoAnswer
from quotapool.openai_admin.records import AccountRecord, KeyRecord
from quotapool.openai_admin.shapes import ApiKey, RateLimit
from quotapool.settings import Account, Settings
from quotapool.settings.organisation import AdminKey
from quotapool.upstream.credentials import fingerprint

T = TypeVar("T")
_AT_ONCE: Final = 4
_MOST_SEARCHED: Final = 200  # projects looked through for keys whose account names none
_SHORTEST_SHOWN: Final = 3  # characters at each end, below which a redacted key proves nothing
_HIDDEN: Final = re.compile(r"\.{2,}|…+|\*+")


@dataclass(slots=True)
class Collected:
    """What OpenAI reported. `limits`: account -> rows as OpenAI lists them; `key_ids`: OpenAI's id of a key -> ours;
    `projects`: project -> account; `problems`: one text each, for operators."""

    keys: dict[str, KeyRecord] = field(default_factory=dict)
    accounts: dict[str, AccountRecord] = field(default_factory=dict)
    limits: dict[str, list[RateLimit]] = field(default_factory=dict)
    key_ids: dict[str, str] = field(default_factory=dict)
    projects: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Collector:
    """One process's client; remembers refusals. The `settings` of its methods include the keys of the vault."""

    def __init__(
        self, http: aiohttp.ClientSession, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._http = http
        self._sleep = sleep
        self._refused: dict[tuple[str, str], str] = {}  # (secret's fingerprint, what it may not read) -> why

    def organisation(self, settings: Settings, admin: AdminKey) -> Organisation:
        """The admin API as `admin` may read it."""
        return Organisation(self._reader(settings, admin.secret.get_secret_value(), admin_key_refused))

    async def collect(self, settings: Settings) -> Collected:
        """Everything: keys, limits, spend limits, credit. Never raises for what OpenAI does."""
        collected = Collected()
        for admin in settings.admin_keys:
            await self._read_organisation(settings, admin, collected)
        for account in accounts_of(settings):
            await self._read_billing(settings, account, collected)
        return collected

    # ---- with an admin key

    async def _read_organisation(self, settings: Settings, admin: AdminKey, collected: Collected) -> None:
        accounts = [account for account in accounts_of(settings) if admin_key_of(settings, account) is admin]
        if not accounts:
            return
        organisation = self.organisation(settings, admin)
        secret = fingerprint(admin.secret.get_secret_value())
        access = _Access(f"admin key of {admin.organization}", secret, collected, self._refused)
        await self._read_keys(settings, accounts, organisation, access)
        whole = await access.read("the organisation's spend limit", organisation.spend_limit)
        for account in accounts:
            record = collected.accounts.setdefault(account, AccountRecord(at=time.time()))
            if whole is not None:
                record.organization_limit_usd, record.organization_stopped = whole.usd, whole.enforcing
            project = settings_of(settings, account).project
            if project is None:
                continue
            record.project = project
            collected.projects[project] = account
            own = await access.read("projects' spend limits", partial(organisation.spend_limit, project))
            if own is not None:
                record.project_limit_usd, record.project_stopped = own.usd, own.enforcing
            limits = await access.read("projects' rate limits", partial(organisation.rate_limits, project))
            if limits is not None:
                collected.limits[account] = limits

    async def _read_keys(
        self, settings: Settings, accounts: list[str], organisation: Organisation, access: _Access
    ) -> None:
        """Find our keys among theirs: in the account's project, else in all of the organisation's."""
        searched = {settings_of(settings, account).project for account in accounts}
        if None in searched:
            projects = await access.read("the projects", organisation.projects) or []
            if len(projects) > _MOST_SEARCHED:
                more = f"has {len(projects)} projects; accounts without `project:` are looked for in {_MOST_SEARCHED}"
                access.collected.problems.append(f"{access.name}: {more}")
            searched |= {project.id for project in projects[:_MOST_SEARCHED]}
        ours = {key.id: key for key in settings.keys if key.account in accounts}
        for project in sorted(filter(None, searched)):
            theirs = await access.read("the projects' keys", partial(organisation.api_keys, project))
            mine = {
                name: key.secret.get_secret_value()
                for name, key in ours.items()
                if settings_of(settings, key.account).project in {project, None}
            }
            for name, found in match(mine, theirs or ()).items():
                access.collected.key_ids[found.id] = name
                access.collected.keys[name] = KeyRecord(
                    key_id=found.id,
                    name=found.name or "",
                    project=project,
                    last_used_at=found.last_used_at,
                    expires_at=found.expires_at,
                    at=time.time(),
                )

    # ---- with a login

    async def _read_billing(self, settings: Settings, account: str, collected: Collected) -> None:
        login = settings_of(settings, account).session_key
        if login is None:
            return
        secret = login.get_secret_value()
        access = _Access(f"session_key of {account}", fingerprint(secret), collected, self._refused)

        async def read() -> bool:
            if secret.lower().startswith("sk-"):  # an API key and no login, by its form alone
                raise NoAnswer(billing_page.API_KEY_GIVEN, final=True)
            reader = self._reader(settings, secret, billing_page.session_refused)
            await billing_page.read_billing(reader, datetime.now(UTC).date(), record)
            return True

        record = collected.accounts.setdefault(account, AccountRecord(at=time.time()))
        if await access.read("the billing pages", read) is None:
            record.problem = access.problem

    def _reader(self, settings: Settings, secret: str, explain: Callable[[int, str], str]) -> JsonReader:
        base = settings.admin_upstream or settings.upstream
        return JsonReader(self._http, base, secret, explain, self._sleep, proxy=settings.proxy_for(base))


@dataclass(slots=True)
class _Access:
    """What one secret, called `name`, may read. `problem`: why the last `read` had no answer."""

    name: str
    fingerprint: str
    collected: Collected
    refused: dict[tuple[str, str], str]
    problem: str = ""

    async def read(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None, with one explanation among the problems, if there is none."""
        key = (self.fingerprint, what)
        if key in self.refused:
            self.problem = self.refused[key]
            return None
        try:
            return await call()
        except NoAnswer as refused:
            self.problem = str(refused)
            self.collected.problems.append(f"{self.name}: {what}: {refused}")
            if refused.final and refused.found:
                self.refused[key] = self.problem
            return None


def connector(ca_file: Path | None) -> aiohttp.TCPConnector:
    """Connections to OpenAI, few at a time; `ca_file`: authorities to trust instead of the system's."""
    tls = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    return aiohttp.TCPConnector(limit=_AT_ONCE, ssl=tls)


def accounts_of(settings: Settings) -> list[str]:
    """The accounts that have keys."""
    return sorted({key.account for key in settings.keys})


def settings_of(settings: Settings, account: str) -> Account:
    return settings.accounts.get(account, Account())


def admin_key_of(settings: Settings, account: str) -> AdminKey | None:
    """The admin key of the account's organisation; with a single admin key an account need not name one."""
    named = settings_of(settings, account).organization
    if named is None:
        return settings.admin_keys[0] if len(settings.admin_keys) == 1 else None
    return next((admin for admin in settings.admin_keys if admin.organization == named), None)


def match(secrets: Mapping[str, str], theirs: Iterable[ApiKey]) -> dict[str, ApiKey]:
    """Our key id -> the key of theirs whose redacted value shows its beginning and end.

    If two match one, it is unclear which it is, and neither is matched.
    """
    fits: dict[str, list[ApiKey]] = {}
    claims: dict[str, int] = {}
    by_end: dict[str, list[tuple[str, str]]] = {}
    for name, secret in secrets.items():
        by_end.setdefault(secret[-_SHORTEST_SHOWN:], []).append((name, secret))
    for key in theirs:
        shown = _HIDDEN.split(key.redacted_value)
        if len(shown) < 2 or min(len(shown[0]), len(shown[-1])) < _SHORTEST_SHOWN:
            continue
        for name, secret in by_end.get(shown[-1][-_SHORTEST_SHOWN:], ()):
            if secret.startswith(shown[0]) and secret.endswith(shown[-1]):
                fits.setdefault(name, []).append(key)
                claims[key.id] = claims.get(key.id, 0) + 1
    return {name: found[0] for name, found in fits.items() if len(found) == 1 and claims[found[0].id] == 1}
