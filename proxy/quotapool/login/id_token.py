"""Whether an ID token is the provider's, for us, and of this login (OpenID Connect Core 1.0, 3.1.3.7).

The signature is checked by joserfc, the optional package of `quotapool[oidc]`, so it is imported only where OIDC is
used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from quotapool.login.secrets import are_equal

# Signatures that only the provider can make. A MAC (HS256) is none of them, and neither is `none`.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
_LEEWAY_S: Final = 60.0  # between its clock and ours
_LARGEST: Final = 64 * 1024
_MOST_KEYS: Final = 100


class BadIdToken(Exception):
    """It proves nothing; the text says which check failed."""


class UnknownKeyId(BadIdToken):
    """The key set has no key of its id: keys may have been changed since it was read."""


def signed_claims(token: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The claims, if one of `keys` (a JSON Web Key Set) signed them. Raises BadIdToken."""
    from joserfc import jws, jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    if len(token) > _LARGEST:
        raise BadIdToken("it is too large")
    usable = [key for key in keys["keys"][:_MOST_KEYS] if _can_verify(key)]
    try:
        header = jws.extract_compact(token.encode()).headers()
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise BadIdToken("it is not signed in a way that is accepted here")
        if key_id is not None:
            usable = [key for key in usable if key.get("kid") == key_id]
        elif len(usable) != 1:
            raise BadIdToken("it does not say by which of several keys it is signed")
        if not usable:
            raise UnknownKeyId("it is signed by a key that the provider does not list")
        found = jwt.decode(token, KeySet.import_key_set({"keys": usable[:1]}), algorithms=[algorithm])
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadIdToken(f"its signature or form is wrong ({type(error).__name__})") from None
    return dict(found.claims)


def _can_verify(key: Any) -> bool:
    return isinstance(key, dict) and key.get("kty") in {"RSA", "EC", "OKP"} and key.get("use", "sig") == "sig"


def check_claims(claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str, now: float) -> None:
    """Raises BadIdToken unless they are of this provider, for this client and this login, and still valid at `now`."""
    if claims.get("iss") != issuer:
        raise BadIdToken("it is of another issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    if client_id not in audiences:
        raise BadIdToken("it is for another client")
    party = claims.get("azp")
    if (len(audiences) > 1 or party is not None) and party != client_id:
        raise BadIdToken("it was given to another client")
    sent = claims.get("nonce")
    if not isinstance(sent, str) or not are_equal(sent, nonce):
        raise BadIdToken("it is of another login")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise BadIdToken("it names nobody")
    if _seconds(claims, "exp") <= now - _LEEWAY_S:
        raise BadIdToken("it has expired")
    if _seconds(claims, "iat") > now + _LEEWAY_S:
        raise BadIdToken("it is of the future; are the clocks right?")
    if "nbf" in claims and _seconds(claims, "nbf") > now + _LEEWAY_S:
        raise BadIdToken("it is not valid yet; are the clocks right?")


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadIdToken(f"it has no {name}")
    return float(value)
