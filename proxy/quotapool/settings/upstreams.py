"""Where a key's requests go when it is not the pool's upstream: Azure OpenAI, or a server that speaks OpenAI's API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from quotapool.settings.section import Section
from quotapool.settings.values import UpstreamUrl

_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_.~-]{1,64}")


def _check_query(query: dict[str, str]) -> dict[str, str]:
    if not all(_QUERY_NAME.fullmatch(name) for name in query):
        raise ValueError("names in a query are letters, digits and _ . ~ -")
    return query


Query = Annotated[dict[str, str], AfterValidator(_check_query)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class KeyUpstream(Section):
    """Written as a URL, or with how to speak to it.

    `url` is what stands before `/v1` (a trailing /v1 is understood). `header` carries the secret. `query` is added to
    every request that has no such parameter. `models`: what clients call a model -> what this upstream calls it; where
    it is given, the key serves no other model.
    """

    url: UpstreamUrl
    header: Literal["bearer", "api-key"] = "bearer"
    query: Query = Field(default_factory=dict)
    models: dict[ModelName, ModelName] = Field(default_factory=dict)


def _from_url(given: Any) -> Any:
    return {"url": given} if isinstance(given, str) else given


UpstreamOfKey = Annotated[KeyUpstream, BeforeValidator(_from_url)]
