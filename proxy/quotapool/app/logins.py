"""Builds what decides who may use the operators' port, and what records their changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from quotapool.admin.access import Access
from quotapool.admin.http import Handler
from quotapool.admin.login_handlers import LoginHandlers
from quotapool.admin.oidc_pages import OidcPages
from quotapool.admin.recorder import Recorder
from quotapool.app.startup import Resources
from quotapool.domain.failed_logins import FailedLogins
from quotapool.login.audit import Audit
from quotapool.login.links import Links
from quotapool.login.sessions import Sessions
from quotapool.operators.keys import KeyOperations
from quotapool.operators.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class Logins:
    """`audit`: also for work that goes on after its call was answered; `pages`: adds `/login/oidc`."""

    access: Access
    audit: Audit
    recorder: Recorder
    handlers: dict[str, Handler]
    pages: Callable[[web.Application], None]


def build_logins(resources: Resources, keys: KeyOperations) -> Logins:
    """`keys` has the settings in force, which a reload replaces."""
    settings, store = keys.settings, resources.admin_store
    pool = settings.pool
    access = Access(resources.admin_token, lambda: keys.settings, Sessions(store, pool))
    audit = Audit(store, pool, settings.state_dir, resources.redactor)
    failed = FailedLogins()
    logins = LoginHandlers(access, Links(store, pool), audit, failed)
    return Logins(
        access=access,
        audit=audit,
        recorder=Recorder(audit, Snapshots(lambda: keys.settings, store, keys)),
        handlers=logins.handlers(),
        pages=OidcPages(access, logins, store, audit, failed).add_to,
    )
