"""Login at an OpenID provider: authorization code with PKCE (S256), state and nonce, from the first redirect to a role.

Nothing is kept here between the two redirects. The browser has one random secret in a cookie, and state, nonce and the
PKCE verifier are derived from it: a callback with another state belongs to another browser, or to no login. A state is
used once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from quotapool.domain.actor import Role, is_name, role_of
from quotapool.login.id_token import BadIdToken, UnknownKeyId, check_claims, signed_claims
from quotapool.login.provider import Provider, ProviderFailed, ProviderRefused
from quotapool.login.secrets import are_equal, derived, id_of, is_secret, new_secret
from quotapool.settings.dashboard import Oidc, Roles
from quotapool.store.store import Store

LASTS_S: Final = 600  # from the first redirect to the callback
CALLBACK: Final = "/login/oidc/callback"
_FLOW: Final = re.compile(r"(\d{1,12})\.([A-Za-z0-9_-]{43})")
_LONGEST_CODE: Final = 2048
_MOST_VALUES: Final = 100
_LONGEST_VALUE: Final = 256
_ERROR: Final = re.compile(r"[a-z_]{1,40}")


class LoginFailed(Exception):
    """Why nobody is logged in: `code` is one of the admin API's error codes; the text is for the person who tried."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logged in. `values`: those of the roles claim, by which the role was earned; `source`: who said so."""

    actor: str
    role: Role
    values: tuple[str, ...]
    source: str


def source_of(options: Oidc) -> str:
    """Which provider and client a session was made by: with another one configured it ends."""
    return id_of(f"{options.issuer} {options.client_id} {options.roles_claim} {options.actor_claim}")


class OidcLogin:
    """`provider` is the one of the configuration of the moment. States that were used are remembered in the store."""

    def __init__(self, provider: Provider, store: Store, pool: str) -> None:
        self._provider = provider
        self._store = store
        self._used = f"qp:{{{pool}:login}}:state:"

    @property
    def options(self) -> Oidc:
        return self._provider.options

    async def begin(self, redirect_uri: str, now: float) -> tuple[str, str]:
        """(the provider's address to go to, the value of the flow's cookie). Raises LoginFailed."""
        try:
            metadata = await self._provider.metadata()
        except ProviderFailed as failed:
            raise LoginFailed("identity_provider_failed", str(failed)) from None
        flow = f"{int(now)}.{new_secret()}"
        challenge = hashlib.sha256(derived(flow, "verifier").encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.options.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self.options.scopes),
            "state": derived(flow, "state"),
            "nonce": derived(flow, "nonce"),
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = metadata.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", flow

    async def finish(
        self, query: Mapping[str, str], flow: str, redirect_uri: str, clock: Callable[[], float]
    ) -> Identity:
        """Who comes back with this query. `flow`: the cookie's value. Raises LoginFailed, StoreLost."""
        await self._check_state(query, flow, clock())
        if (error := query.get("error")) is not None:
            said = f" ({error})" if _ERROR.fullmatch(error) else ""
            raise LoginFailed("login_refused", f"The identity provider let nobody in{said}.")
        code = query.get("code", "")
        if not 0 < len(code) <= _LONGEST_CODE:
            raise LoginFailed("login_refused", "The identity provider sent no code.")
        try:
            return await self._identity(query, code, flow, redirect_uri, clock)
        except ProviderRefused as refused:
            raise LoginFailed("login_refused", f"Not logged in: {refused}.") from None
        except ProviderFailed as failed:
            raise LoginFailed("identity_provider_failed", str(failed)) from None
        except BadIdToken as bad:
            raise LoginFailed("login_refused", f"The identity provider's ID token is not accepted: {bad}.") from None

    async def _check_state(self, query: Mapping[str, str], flow: str, now: float) -> None:
        again = LoginFailed(
            "login_refused", "This login was not begun in this browser, or too long ago. Please begin again."
        )
        form = _FLOW.fullmatch(flow)
        if form is None or not is_secret(form[2]) or not -60 <= now - int(form[1]) <= LASTS_S:
            raise again
        if not are_equal(query.get("state", ""), derived(flow, "state")):
            raise again
        name = self._used + id_of(flow)
        if not await self._store.guard(self._store.client.set(name, b"1", nx=True, ex=LASTS_S + 120)):
            raise LoginFailed("login_refused", "This login was used already. Please begin again.")

    async def _identity(
        self, query: Mapping[str, str], code: str, flow: str, redirect_uri: str, clock: Callable[[], float]
    ) -> Identity:
        options, metadata = self.options, await self._provider.metadata()
        # RFC 9207: a code that another provider gave must not be sent to this one.
        issuer = query.get("iss")
        if (issuer is not None or metadata.authorization_response_iss_parameter_supported) and issuer != options.issuer:
            raise BadIdToken("the answer is of another issuer")
        tokens = await self._provider.exchange(code, derived(flow, "verifier"), redirect_uri)
        try:
            claims = signed_claims(tokens.id_token, await self._provider.keys())
        except UnknownKeyId:
            claims = signed_claims(tokens.id_token, await self._provider.keys(fresh=True))
        check_claims(
            claims, issuer=options.issuer, client_id=options.client_id, nonce=derived(flow, "nonce"), now=clock()
        )
        wanted = {options.actor_claim, options.roles_claim}
        if wanted - claims.keys():
            more = await self._provider.userinfo(tokens.access_token)
            if more and more.get("sub") != claims["sub"]:
                raise BadIdToken("its claims are of somebody else")
            # What the ID token says is signed, so it counts first.
            claims = {**more, **claims}
        return identity_of(claims, options)


def identity_of(claims: Mapping[str, Any], options: Oidc) -> Identity:
    """Whom these claims name, and the role that they earn. Raises LoginFailed (`no_role`, `login_refused`)."""
    used = {options.actor_claim, options.roles_claim}
    if "email" in used and claims.get("email_verified", True) not in {True, "true"}:
        raise LoginFailed("login_refused", "The identity provider has not verified this e-mail address.")
    actor = claims.get(options.actor_claim)
    if not isinstance(actor, str) or not is_name(actor):
        message = f"The identity provider sends no {options.actor_claim} to name you by (dashboard.oidc.actor_claim)."
        raise LoginFailed("login_refused", message)
    values = values_of(claims.get(options.roles_claim))
    role = role_of(values, options.operators, options.viewers)
    if role is None:
        raise LoginFailed("no_role", no_role(actor, options.roles_claim, values))
    return Identity(actor, role, earned_by(values, options), source_of(options))


def values_of(claim: Any) -> tuple[str, ...]:
    """A claim that is a text or a list of texts, within bounds."""
    found = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    texts = (value for value in found if isinstance(value, str) and 0 < len(value) <= _LONGEST_VALUE)
    return tuple(dict.fromkeys(texts))


def earned_by(values: tuple[str, ...], roles: Roles) -> tuple[str, ...]:
    """Those of the values that earn a role today, which are kept with the session: it ends when they no longer do."""
    return tuple(value for value in values if role_of([value], roles.operators, roles.viewers))[:_MOST_VALUES]


def no_role(actor: str, claim: str, values: tuple[str, ...]) -> str:
    """For the person concerned, who may see what is said about them, and pass it on to whoever gives roles."""
    shown = ", ".join(filter(str.isprintable, values[:20])) or "nothing"
    return f"{actor} has no role here: the claim {claim} says {shown}, and the configuration has no pattern for it."
