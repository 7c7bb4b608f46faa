"""The two cookies of logins: written with every protection that browsers know, and read without being fooled by a
second one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SESSION: Final = "quotapool_session"
FLOW: Final = "quotapool_login"  # of a login at an identity provider that is under way
FLOW_PATH: Final = "/login/oidc"


def values_of(lines: Iterable[str], name: str) -> list[str]:
    """Every value that these Cookie headers have for `name`.

    More than one means that somebody else can set cookies for this host (another port, a sibling domain): which one is
    ours cannot be told, so callers take none.
    """
    pairs = (part.strip().partition("=") for line in lines for part in line.split(";"))
    return [value for found, _, value in pairs if found == name]


def only_value(lines: Iterable[str], name: str) -> str:
    """The value, or "" if there is none or several."""
    values = values_of(lines, name)
    return values[0] if len(values) == 1 else ""


def session_cookie(secret: str, lives_s: float, *, secure: bool) -> str:
    """A Set-Cookie header. It goes to no other site and to no script."""
    return _cookie(SESSION, secret, int(lives_s), "/", "Strict", secure=secure)


def flow_cookie(value: str, lives_s: float, *, secure: bool) -> str:
    """Lax: the browser has to send it when the identity provider, another site, sends it back here."""
    return _cookie(FLOW, value, int(lives_s), FLOW_PATH, "Lax", secure=secure)


def no_session(*, secure: bool) -> str:
    return _cookie(SESSION, "", 0, "/", "Strict", secure=secure)


def no_flow(*, secure: bool) -> str:
    return _cookie(FLOW, "", 0, FLOW_PATH, "Lax", secure=secure)


def _cookie(name: str, value: str, max_age: int, path: str, same_site: str, *, secure: bool) -> str:
    parts = [f"{name}={value}", f"Path={path}", f"Max-Age={max_age}", "HttpOnly", f"SameSite={same_site}"]
    return "; ".join([*parts, "Secure"] if secure else parts)
