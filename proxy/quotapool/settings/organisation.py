"""Options for reading an organisation's data from OpenAI: its admin keys, and the project that an account is."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

from quotapool.settings.values import Name, Section, check_token, hidden

_PROJECT: Final = re.compile(r"proj_[A-Za-z0-9_-]{1,64}")
_WHERE: Final = "an owner creates one at https://platform.openai.com/settings/organization/admin-keys"


def _check_admin_secret(secret: SecretStr) -> SecretStr:
    """A cleaned admin key. Any other kind is refused here, so that it is never sent to an API that must refuse it."""
    secret = check_token(secret)
    text = secret.get_secret_value().lower()
    if text.startswith("sk-admin-"):
        return secret
    if text.startswith("sess-"):
        raise ValueError(f"is a session key; it belongs in accounts.<account>.session_key. For an admin key, {_WHERE}")
    if text.startswith("sk-"):
        raise ValueError(f"is a project key, which OpenAI's admin API refuses; it needs an sk-admin-... key: {_WHERE}")
    raise ValueError(f"must be an admin key, sk-admin-...: {_WHERE}")


def _check_project(text: str) -> str:
    if not _PROJECT.fullmatch(text):
        raise ValueError("must be a project id, proj_..., as shown on the project's settings page")
    return text


AdminSecret = Annotated[SecretStr, AfterValidator(_check_admin_secret), hidden]
ProjectId = Annotated[str, AfterValidator(_check_project)]


class AdminKey(Section):
    """Reads an organisation's data from OpenAI; serves no requests. `organization`: its name under `accounts`."""

    organization: Name
    secret: AdminSecret
