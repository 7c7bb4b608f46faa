"""A key's own upstream instead of the pool's: Azure OpenAI, or a server that implements OpenAI's API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from quotapool.settings.values import ModelName, Section, UpstreamUrl

_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_.~-]{1,64}")


def _check_query(query: dict[str, str]) -> dict[str, str]:
    if not all(_QUERY_NAME.fullmatch(name) for name in query):
        raise ValueError("names in a query may only have letters, digits and _ . ~ -")
    return query


Query = Annotated[dict[str, str], AfterValidator(_check_query)]


class KeyUpstream(Section):
    """Given as a URL, or as a URL with details.

    `url` is the part before `/v1` (a trailing /v1 is accepted). `header` carries the secret. `query` is added to every
    request without such a parameter. `models`: the clients' name of a model -> this upstream's; if given, the key
    serves no other model.
    """

    url: UpstreamUrl
    header: Literal["bearer", "api-key"] = "bearer"
    query: Query = Field(default_factory=dict)
    models: dict[ModelName, ModelName] = Field(default_factory=dict)


def _from_url(given: Any) -> Any:
    return {"url": given} if isinstance(given, str) else given


UpstreamOfKey = Annotated[KeyUpstream, BeforeValidator(_from_url)]
