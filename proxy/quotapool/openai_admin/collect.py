"""Asks OpenAI about the pool's keys and accounts, with the admin keys and session keys that are configured.

What an admin key or a login may not read is explained once, and then not asked again until the secret changes.
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
from quotapool.openai_admin.json_reader import NotTold, Reader
from quotapool.openai_admin.records import AccountSaid, KeySaid
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
class Told:
    """What OpenAI said. `limits`: account -> rows as OpenAI lists them; `key_ids`: OpenAI's id of a key -> ours;
    `projects`: project -> account; `problems`: one line each, for an operator."""

    keys: dict[str, KeySaid] = field(default_factory=dict)
    accounts: dict[str, AccountSaid] = field(default_factory=dict)
    limits: dict[str, list[RateLimit]] = field(default_factory=dict)
    key_ids: dict[str, str] = field(default_factory=dict)
    projects: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Inquiry:
    """One process's questions; remembers refusals. `settings` hold the keys of the vault too."""

    def __init__(
        self, http: aiohttp.ClientSession, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._http = http
        self._sleep = sleep
        self._refused: dict[tuple[str, str], str] = {}  # (secret's fingerprint, what it may not read) -> why

    def organisation(self, settings: Settings, admin: AdminKey) -> Organisation:
        """The admin API as `admin` sees it."""
        return Organisation(self._reader(settings, admin.secret.get_secret_value(), admin_key_refused))

    async def ask(self, settings: Settings) -> Told:
        """Everything: keys, limits, spend limits, credit. Never raises for what OpenAI does."""
        told = Told()
        for admin in settings.admin_keys:
            await self._ask_organisation(settings, admin, told)
        for account in accounts_of(settings):
            await self._ask_session(settings, account, told)
        return told

    # ---- with an admin key

    async def _ask_organisation(self, settings: Settings, admin: AdminKey, told: Told) -> None:
        accounts = [account for account in accounts_of(settings) if admin_key_of(settings, account) is admin]
        if not accounts:
            return
        organisation = self.organisation(settings, admin)
        asked = _Asked(self, f"admin key of {admin.organization}", fingerprint(admin.secret.get_secret_value()), told)
        await self._ask_keys(settings, accounts, organisation, asked)
        whole = await asked("the organisation's spend limit", organisation.spend_limit)
        for account in accounts:
            said = told.accounts.setdefault(account, AccountSaid(at=time.time()))
            if whole is not None:
                said.organization_limit_usd, said.organization_stopped = whole.usd, whole.enforcing
            project = settings_of(settings, account).project
            if project is None:
                continue
            said.project = project
            told.projects[project] = account
            own = await asked("projects' spend limits", partial(organisation.spend_limit, project))
            if own is not None:
                said.project_limit_usd, said.project_stopped = own.usd, own.enforcing
            limits = await asked("projects' rate limits", partial(organisation.rate_limits, project))
            if limits is not None:
                told.limits[account] = limits

    async def _ask_keys(
        self, settings: Settings, accounts: list[str], organisation: Organisation, asked: _Asked
    ) -> None:
        """Find our keys among theirs: in the account's project, else in all of the organisation's."""
        searched = {settings_of(settings, account).project for account in accounts}
        if None in searched:
            projects = await asked("the projects", organisation.projects) or []
            if len(projects) > _MOST_SEARCHED:
                more = f"has {len(projects)} projects; accounts without `project:` are looked for in {_MOST_SEARCHED}"
                asked.told.problems.append(f"{asked.who}: {more}")
            searched |= {project.id for project in projects[:_MOST_SEARCHED]}
        ours = {key.id: key for key in settings.keys if key.account in accounts}
        for project in sorted(filter(None, searched)):
            theirs = await asked("the projects' keys", partial(organisation.api_keys, project))
            mine = {
                name: key.secret.get_secret_value()
                for name, key in ours.items()
                if settings_of(settings, key.account).project in {project, None}
            }
            for name, found in match(mine, theirs or ()).items():
                asked.told.key_ids[found.id] = name
                asked.told.keys[name] = KeySaid(
                    key_id=found.id,
                    name=found.name or "",
                    project=project,
                    last_used_at=found.last_used_at,
                    expires_at=found.expires_at,
                    at=time.time(),
                )

    # ---- with a login

    async def _ask_session(self, settings: Settings, account: str, told: Told) -> None:
        login = settings_of(settings, account).session_key
        if login is None:
            return
        secret = login.get_secret_value()
        asked = _Asked(self, f"session_key of {account}", fingerprint(secret), told)

        async def billing() -> billing_page.Billing:
            if billing_page.is_api_key(secret):
                raise NotTold(billing_page.API_KEY_GIVEN, final=True)
            return await billing_page.billing(
                self._reader(settings, secret, billing_page.session_refused), datetime.now(UTC).date()
            )

        said = told.accounts.setdefault(account, AccountSaid(at=time.time()))
        bill = await asked("the billing pages", billing)
        if bill is None:
            said.problem = asked.why
            return
        said.granted_usd, said.available_usd = bill.granted_usd, bill.available_usd
        said.access_until, said.month_usd = bill.access_until, bill.month_usd

    def _reader(self, settings: Settings, secret: str, explain: Callable[[int, str], str]) -> Reader:
        base = settings.admin_upstream or settings.upstream
        return Reader(self._http, base, secret, explain, self._sleep, proxy=settings.proxy_for(base))

    async def attempt(self, asked: _Asked, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None, with one line of explanation, where there is none."""
        question = (asked.fingerprint, what)
        if question in self._refused:
            asked.why = self._refused[question]
            return None
        try:
            return await call()
        except NotTold as refused:
            asked.why = str(refused)
            asked.told.problems.append(f"{asked.who}: {what}: {refused}")
            if refused.final and refused.found:
                self._refused[question] = asked.why
            return None


@dataclass(slots=True)
class _Asked:
    """Questions with one secret. `why`: what was said instead of the last answer."""

    inquiry: Inquiry
    who: str
    fingerprint: str
    told: Told
    why: str = ""

    async def __call__(self, what: str, call: Callable[[], Awaitable[T]]) -> T | None:
        return await self.inquiry.attempt(self, what, call)


def connector(ca_file: Path | None) -> aiohttp.TCPConnector:
    """Connections to OpenAI, few at a time; `ca_file`: whom to trust instead of the system's authorities."""
    tls = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    return aiohttp.TCPConnector(limit=_AT_ONCE, ssl=tls)


def accounts_of(settings: Settings) -> list[str]:
    """Those that have keys."""
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

    Where two fit one, nobody can say which it is, and neither is matched.
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
