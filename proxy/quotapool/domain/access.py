"""What a request uses that an account or a key may have no access to, and what a refusal for lack of it is about."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Access(StrEnum):
    """What a refusal for lack of access is about."""

    MODEL = "model"  # the account and the model, or the stored prompt
    FEATURE = "feature"  # the account, the model and one feature of it: others go on
    ENDPOINT = "endpoint"  # the key and the endpoint: another key of the account may have the scope
    REQUEST = "request"  # nothing that other requests have in common


class Use(msgspec.Struct, frozen=True, gc=False):
    """What a request uses. `model`: its name, or the id of the stored prompt that chooses it."""

    model: str
    endpoint: str = ""
    features: tuple[str, ...] = ()
