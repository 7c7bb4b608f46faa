"""Admission over HTTP: estimates, headers, 429 bodies, and the two ways of charging."""

from __future__ import annotations

import json

import openai
import pytest
from quotapool.simulator.parsed_request import CHAT, EMBEDDINGS, RESPONSES, ParsedRequest, parse_request

HELLO = [{"role": "user", "content": "12345678"}]


@pytest.mark.parametrize(
    ("shape", "body", "estimate"),
    [
        (CHAT, {"messages": HELLO}, 16),  # the default output
        (CHAT, {"messages": HELLO, "max_tokens": 100}, 100),
        (CHAT, {"messages": HELLO, "max_tokens": 100, "n": 3}, 300),
        (CHAT, {"messages": HELLO, "max_tokens": 100, "max_completion_tokens": 7}, 7),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 4001}], "max_tokens": 100}, 1001),
        (CHAT, {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "x" * 400},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}},
        ]}]}, 100),  # an image is not text
        (RESPONSES, {"input": "x" * 400, "instructions": "x" * 400}, 200),
        (RESPONSES, {"input": "x", "max_output_tokens": 50}, 50),
        (EMBEDDINGS, {"input": ["x" * 40, "x" * 40]}, 20),
        (EMBEDDINGS, {"input": [[1, 2, 3], [4, 5]]}, 5),  # token arrays
    ],
)  # fmt: skip
def test_the_estimate_is_the_larger_of_output_times_n_and_a_quarter_of_the_characters(shape, body, estimate):
    ask = parse_request(shape, json.dumps({"model": "gpt-4o", **body}).encode(), default_output=16, prompts={})
    assert isinstance(ask, ParsedRequest)
    assert ask.estimate == estimate


async def test_a_full_requests_bucket_is_refused_in_openais_words(simulate):
    simulation = await simulate([{"rpm": 1, "tpm": 1000}])
    sdk = simulation.sdk()
    await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as refused:
        await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    error, headers = refused.value, refused.value.response.headers
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert error.body["message"].startswith(
        "Rate limit reached for gpt-4o-mini in organization org-sim-account-00 on requests per min (RPM): "
        "Limit 1, Used 1, Requested 1. Please try again in "
    )
    assert 59 <= int(headers["retry-after"]) <= 60
    assert "retry-after-ms" not in headers
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    account = await simulation.account()
    assert (account["attempts"], account["admitted"], account["refused"]) == (2, 1, {"rpm": 1})


async def test_a_request_larger_than_the_whole_limit_names_the_shared_bucket_and_no_wait(simulate):
    simulation = await simulate([{"tpm": 30_000}])
    with pytest.raises(openai.RateLimitError) as refused:
        await simulation.sdk().chat.completions.create(model="gpt-4.1-2025-04-14", messages=HELLO, max_tokens=37_313)
    assert refused.value.type == "tokens"
    assert refused.value.body["message"].startswith(
        "Request too large for gpt-4.1-2025-04-14 (for limit gpt-4.1) in organization org-sim-account-00 on tokens "
        "per min (TPM): Limit 30000, Requested 37313. The input or output tokens must be reduced"
    )
    assert "retry-after" not in refused.value.response.headers
    assert (await simulation.account())["refused"] == {"too_large": 1}


async def test_keys_of_one_account_share_its_buckets_models_do_not_and_snapshots_join_their_alias(simulate):
    simulation = await simulate([{"keys": ("sk-one-aaaaaaaa", "sk-two-bbbbbbbb"), "rpm": 1}])
    one, two = simulation.sdk(api_key="sk-one-aaaaaaaa"), simulation.sdk(api_key="sk-two-bbbbbbbb")
    await one.chat.completions.create(model="gpt-4o", messages=HELLO)
    await one.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    for model in ("gpt-4o", "gpt-4o-2024-08-06"):
        with pytest.raises(openai.RateLimitError):
            await two.chat.completions.create(model=model, messages=HELLO)


async def test_a_models_own_limits_override_the_accounts(simulate):
    simulation = await simulate([{"rpm": 1, "models": {"gpt-4o*": {"rpm": 77}}}])
    answer, _ = await simulation.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO})
    assert answer.headers["x-ratelimit-limit-requests"] == "77"


@pytest.mark.parametrize(("charging", "remaining"), [("keep", 100_000 - 5000 - 16), ("correct", 100_000 - 34 - 16)])
async def test_the_estimate_stays_charged_or_is_corrected_to_the_usage(simulate, charging, remaining):
    simulation = await simulate([{"tpm": 100_000}], charging=charging)
    body = {"model": "gpt-4o", "messages": HELLO}
    await simulation.post("/v1/chat/completions", {**body, "max_tokens": 5000})  # uses 2 + 32
    answer, _ = await simulation.post("/v1/chat/completions", body)  # is charged 16 at admission
    refilled_at_most = 100_000 / 60 * 2
    assert (
        remaining <= int(answer.headers["x-ratelimit-remaining-tokens"]) <= min(100_000, remaining + refilled_at_most)
    )


async def test_every_success_carries_openais_headers(simulate):
    simulation = await simulate([{"rpm": 60, "tpm": 60_000}])
    answer, _ = await simulation.post("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO, "max_tokens": 100})
    headers = answer.headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-reset-requests"] == "1s"
    assert headers["x-ratelimit-remaining-tokens"] == "59900"
    assert headers["x-ratelimit-reset-tokens"] == "100ms"
    assert headers["openai-organization"] == "org-sim-account-00"
    assert headers["openai-version"] == "2020-10-01"
    assert headers["x-request-id"].startswith("req_")
    assert headers["Set-Cookie"].startswith("__cf_bm=")
    assert headers["openai-processing-ms"].isdecimal()
