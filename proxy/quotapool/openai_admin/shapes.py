"""The shapes of OpenAI's admin API, as far as they are read here. Unknown fields are ignored.

Shapes: openai-openapi 2.3.0 and the Python SDK 3.54, `types/admin/organization`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class ObjectPage(msgspec.Struct, Generic[T]):
    """A page of a list of objects; the next one begins `after` the last one's id."""

    data: list[T]
    has_more: bool = False
    last_id: str | None = None


class Project(msgspec.Struct):
    """`status`: active or archived."""

    id: str
    name: str | None = None
    status: str | None = None


class RateLimit(msgspec.Struct):
    """Limits of one model in one project; `batch_1_day_max_input_tokens` is a separate one, of the batch queue."""

    id: str
    model: str
    max_requests_per_1_minute: int | None = None
    max_tokens_per_1_minute: int | None = None
    max_images_per_1_minute: int | None = None
    max_audio_megabytes_per_1_minute: int | None = None
    max_requests_per_1_day: int | None = None
    batch_1_day_max_input_tokens: int | None = None


class ApiKey(msgspec.Struct):
    """A project's key. `redacted_value` shows its beginning and end; times in Unix seconds."""

    id: str
    redacted_value: str
    name: str | None = None
    last_used_at: int | None = None
    expires_at: int | None = None


class Enforcement(msgspec.Struct):
    """`status`: inactive or enforcing, which is when requests are refused."""

    status: str | None = None


class SpendLimit(msgspec.Struct):
    """A hard monthly limit in cents."""

    threshold_amount: Decimal
    enforcement: Enforcement | None = None

    @property
    def usd(self) -> float:
        return float(self.threshold_amount / 100)

    @property
    def enforcing(self) -> bool:
        return self.enforcement is not None and self.enforcement.status == "enforcing"


class Amount(msgspec.Struct):
    value: Decimal | None = None


class CostResult(msgspec.Struct):
    amount: Amount | None = None
    project_id: str | None = None
    api_key_id: str | None = None


class UsageResult(msgspec.Struct):
    """`input_tokens` contain the cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    num_model_requests: int = 0
    project_id: str | None = None
    api_key_id: str | None = None


class Bucket(msgspec.Struct, Generic[T]):
    """One day, from `start_time` (Unix seconds)."""

    start_time: int
    results: list[T] = []


class BucketPage(msgspec.Struct, Generic[T]):
    """Days; `next_page` identifies the next page."""

    data: list[Bucket[T]]
    has_more: bool = False
    next_page: str | None = None
