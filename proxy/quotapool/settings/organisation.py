"""Options about what OpenAI itself says of an organisation: its admin keys, and which project an account is."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

from quotapool.settings.section import Section
from quotapool.settings.values import Name, check_token, hidden

_PROJECT: Final = re.compile(r"proj_[A-Za-z0-9_-]{1,64}")
_WHERE: Final = "an owner of the organisation makes one at https://platform.openai.com/settings/organization/admin-keys"


def _check_admin_secret(secret: SecretStr) -> SecretStr:
    """A cleaned admin key. Any other kind is refused here, and so never shown to an API that must refuse it."""
    secret = check_token(secret)
    text = secret.get_secret_value().lower()
    if text.startswith("sk-admin-"):
        return secret
    if text.startswith("sess-"):
        raise ValueError(f"is a browser's login; it belongs into accounts.<account>.session_key. {_WHERE}")
    if text.startswith("sk-"):
        raise ValueError(f"is a project's key, which OpenAI's admin API refuses; it takes sk-admin-...: {_WHERE}")
    raise ValueError(f"must be an admin key, sk-admin-...: {_WHERE}")


def _check_project(text: str) -> str:
    if not _PROJECT.fullmatch(text):
        raise ValueError("must be a project's id, proj_..., as the settings page of the project shows it")
    return text


AdminSecret = Annotated[SecretStr, AfterValidator(_check_admin_secret), hidden]
ProjectId = Annotated[str, AfterValidator(_check_project)]


class AdminKey(Section):
    """Reads what OpenAI knows of one organisation; serves no request. `organization`: as accounts name it."""

    organization: Name
    secret: AdminSecret
