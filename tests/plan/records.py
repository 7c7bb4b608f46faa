"""Records of demand as programs write them, for tests of what reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from quotapool.domain.wallet import PICO
from quotapool.plan.demand import Demand
from quotapool.plan.sources.files import read_file
from quotapool.plan.sources.record import Collector, Known

AT = 1_795_000_000.0  # 2026-11-18 11:06:40 UTC
HASH = "ab" * 32
KNOWN = Known(
    group_of=lambda model: model.removesuffix("-2024-08-06"),
    patience_of=lambda client: 30.0 if client != "hasty" else 5.0,
    client_by_hash={HASH: "app"},
    price=lambda _model, prompt, _cached, completion: 1000 * (prompt + completion),
)
HUGE = 10**400  # beyond a float
EVER = datetime.fromtimestamp(0, UTC)


def read(path, *, tokens=None, **options) -> list[Demand]:
    return read_file(str(path), KNOWN, Collector(**options), tokens=tokens, progress=lambda *_: None).demand


def record(path, *, tokens=None, **options):
    return read_file(str(path), KNOWN, Collector(**options), tokens=tokens, progress=lambda *_: None)


# ---- our own log


def line(**changed) -> dict:
    """A request that came at AT and took 2 s, 1.5 s of them upstream."""
    fields = {
        "ts": "2026-11-18T11:06:42Z",
        "level": "info",
        "event": "request",
        "request_id": "qp_1",
        "client": "app",
        "endpoint": "chat",
        "model": "gpt-4o",
        "status": 200,
        "attempts": [{"key": "alpha", "outcome": "ok", "wait_ms": 500.0, "status": 200, "ms": 1500.0}],
        "tokens": {"prompt": 100, "completion": 50, "certainty": "exact"},
        "queue_ms": 500.0,
        "ttfb_ms": 230.0,
        "total_ms": 2000.0,
        "overhead_ms": 0.4,
        "source": "upstream",
        "asked_for": {"tokens": 900, "max_wait_s": 30.0},
        "usd": 0.001,
    }
    return {**fields, **changed}


def write_lines(path, *lines: dict | str) -> None:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))


def spend_log(**changed) -> dict:
    fields = {
        "request_id": "chatcmpl-1",
        "call_type": "acompletion",
        "api_key": HASH,
        "spend": 0.002,
        "total_tokens": 150,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "startTime": "2026-11-18T11:06:40Z",
        "endTime": "2026-11-18T11:06:41.500Z",
        "model": "gpt-4o-2024-08-06",
        "model_group": "gpt-4o",
        "custom_llm_provider": "openai",
        "cache_hit": "False",
        "status": "success",
        "metadata": {"user_api_key_alias": "the app"},
        "messages": {},
    }
    return {**fields, **changed}


FROM_LITELLM = Demand(AT, "app", "gpt-4o", "", 100, 150, 0, 1.5, 2 * PICO // 1000)
