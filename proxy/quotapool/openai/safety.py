"""Policy refusals, and the `safety_identifier` that keeps one user's refusals from costing an organisation its access.

OpenAI's safety-checks guide: repeated high-risk requests cost the organisation a model, and later the account, unless
each request names its end user by a stable, hashed `safety_identifier` (at most 64 characters).
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from quotapool.domain.verdict import Kind, Verdict
from quotapool.openai.jsontext import BROKEN

_REFUSALS: Final = ("invalid_prompt", "*policy*", "*moderation*", "content_filter")
_MEMBER: Final = "safety_identifier"
HEADER: Final = "OpenAI-Safety-Identifier"

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_policy_refusal(verdict: Verdict) -> bool:
    """Whether upstream refused the caller's content because of its usage policies."""
    return verdict.kind is Kind.REQUEST and any(fnmatchcase(verdict.reason, pattern) for pattern in _REFUSALS)


def identifier_of(client: str) -> str:
    """A client's `safety_identifier`: stable, without revealing its id."""
    return hashlib.sha256(f"quotapool client {client}".encode()).hexdigest()[:32]


def fill_identifier(body: bytes, identifier: str) -> bytes:
    """The JSON object with `safety_identifier`, all other bytes as they are. The same object is returned if it has that
    member already, whatever its value, or if the body is not a JSON object."""
    try:
        members = _members.decode(body)
    except BROKEN:
        return body
    if _MEMBER in members:
        return body
    brace = body.rindex(b"}")
    comma = b"," if members else b""
    return body[:brace] + comma + f'"{_MEMBER}":"{identifier}"'.encode() + body[brace:]
