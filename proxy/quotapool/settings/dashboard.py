"""Options about the operators' page: how long a login lasts, and who else than the holder of the token may log in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, create_model

from quotapool.settings.values import Address, NetworkName, PositiveDuration, Section, Token

_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
# They say something else than who is calling, or are made by the browser itself.
_NO_IDENTITY: Final = frozenset({"authorization", "cookie", "host", "origin", "referer", "user-agent", "content-type"})
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")  # RFC 6749, 3.3
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")


def _check_web_url(text: str, what: str, example: str) -> str:
    try:
        url = urlsplit(text.strip())
        port = url.port
    except ValueError:
        raise ValueError(f"must be a valid URL, such as {example}") from None
    host = url.netloc.rpartition("@")[2].removesuffix(f":{port}" if port is not None else "")
    if url.scheme not in {"http", "https"} or not url.hostname or not _HOST.fullmatch(host):
        raise ValueError(f"must be an http:// or https:// URL, such as {example}")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError(f"must be {what} only, without a user, a query (?) or a fragment (#)")
    return text.strip()


def check_page_url(text: str) -> str:
    """An origin: scheme, host and port."""
    example = "https://pool.example.com"
    checked = _check_web_url(text, "the page's address", example).rstrip("/").lower()
    if urlsplit(checked).path:
        raise ValueError(f"must not have a path: the page is at the root of its host, such as {example}")
    return checked


def check_issuer(text: str) -> str:
    """As the provider writes it: the issuer is compared letter by letter (OpenID Connect Discovery 1.0, 4.3)."""
    issuer = _check_web_url(text, "the issuer", "https://login.example.com")
    url = urlsplit(issuer)
    if url.scheme == "http" and not Address(url.hostname or "", 0).is_loopback:
        raise ValueError("must be https://: over http:// anybody on the way could log in")
    return issuer


def check_header(name: str) -> str:
    if not _HEADER.fullmatch(name) or name.lower() in _NO_IDENTITY:
        raise ValueError("must be the name of the header in which the proxy says who is calling: X-Forwarded-User")
    return name


def check_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    if "openid" not in scopes:
        raise ValueError("must contain openid, without which a provider names nobody")
    return scopes


def check_scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError("must be a scope, such as email")
    return text


PageUrl = Annotated[str, AfterValidator(check_page_url)]
Issuer = Annotated[str, AfterValidator(check_issuer)]
HeaderName = Annotated[str, AfterValidator(check_header)]
Scope = Annotated[str, AfterValidator(check_scope)]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
ClaimName = Annotated[str, Field(min_length=1, max_length=256)]


class Roles(Section):
    """Who may change the pool, and who may look at it: patterns (`*`, `?`). Whoever is in neither list gets nothing."""

    operators: tuple[Pattern, ...] = ()
    viewers: tuple[Pattern, ...] = ()


class Oidc(Roles):
    """An OpenID provider. `actor_claim`: the claim that names a person; `roles_claim`: the one (a text or a list) that
    the patterns are compared with. Without `client_secret` this is a public client."""

    issuer: Issuer
    client_id: Annotated[str, Field(min_length=1, max_length=256)]
    client_secret: Token | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] = "single sign-on"  # on the page's button
    scopes: Annotated[tuple[Scope, ...], AfterValidator(check_scopes)] = ("openid", "email", "profile")
    actor_claim: ClaimName = "email"
    roles_claim: ClaimName = "groups"


_Sources = Annotated[tuple[NetworkName, ...], Field(min_length=1)]
_FIELDS: Any = {"from": (_Sources, ...)}  # a word that a class body cannot declare
_From: Any = create_model("_From", __base__=Roles, **_FIELDS)


class TrustedHeader(_From):
    """An identity-aware proxy before this port. `name`: the header in which it says who is calling; `from`: its own
    addresses, from which alone that is believed."""

    name: HeaderName = "X-Forwarded-User"

    @property
    def sources(self) -> tuple[str, ...]:
        """The option `from`."""
        networks: tuple[str, ...] = getattr(self, "from")
        return networks


class Dashboard(Section):
    """`enabled`: whether there are a page and logins. `session`: seconds. `url`: the page's address as browsers know
    it; None: the Host of the request, if that is allowed."""

    enabled: bool = True
    session: Annotated[PositiveDuration, Field(ge=60, le=30 * 86_400)] = 12 * 3600.0
    url: PageUrl | None = None
    oidc: Oidc | None = None
    trusted_header: TrustedHeader | None = None


def warnings_of(dashboard: Dashboard) -> Iterator[str]:
    """What is allowed and yet may not be meant, one line each."""
    for name, roles in (("oidc", dashboard.oidc), ("trusted_header", dashboard.trusted_header)):
        if roles is not None and not (roles.operators or roles.viewers):
            yield f"dashboard.{name}: neither operators nor viewers are named, so nobody may log in that way"
    header = dashboard.trusted_header
    if header is not None and any(ipaddress.ip_network(source).is_loopback for source in header.sources):
        yield (
            "dashboard.trusted_header.from: contains loopback: every user and process of this machine can claim to "
            f"be anybody by sending {header.name}"
        )
