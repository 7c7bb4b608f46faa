"""Who an operator is: bodies and answers of signing in to the page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Role = Literal["viewer", "operator"]
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class LoginMethods(msgspec.Struct):
    """What the page may offer before anybody is signed in. `oidc`: the name of the identity provider, null: none.
    `signed_in`: whether this browser is, so that the page need not try."""

    signed_in: bool
    token: bool
    oidc: str | None
    header: bool


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """Either the admin token, or the code of a one-time link."""

    token: Short | None = None
    code: Short | None = None


class OperatorSession(msgspec.Struct):
    """Who is calling. `by`: how that is known; `expires_at`: Unix seconds, null for a token or a header. `csrf`: to be
    sent as X-Quotapool-CSRF with each change; "" if none is needed."""

    actor: str
    role: Role
    by: Literal["token", "link", "oidc", "header"]
    expires_at: float | None
    csrf: str
    pool: str
    version: str


class LoginRow(msgspec.Struct):
    """A session of the page. `id`: not its secret; times are Unix seconds."""

    id: str
    actor: str
    role: Role
    by: str
    address: str
    started: float
    expires_at: float
    current: bool


class LoginRows(msgspec.Struct):
    logins: list[LoginRow]


class Change(msgspec.Struct):
    """One event of kind `operator` in /admin/events: `data` of it, decoded. `changes`: option -> [old, new]."""

    actor: str
    role: str
    address: str
    action: str
    subject: str
    changes: dict[str, list[Any]]
