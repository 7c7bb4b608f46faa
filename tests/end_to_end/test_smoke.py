"""The shortest way through: one request, counted once."""

from __future__ import annotations

from openai import OpenAI

from tests.fakes.processes import pool_config, wait_until


def test_one_chat_goes_through_and_is_counted_once(start_simulator, start_proxy):
    simulator = start_simulator(2)
    proxy = start_proxy(pool_config(simulator))
    client = OpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
    assert answer.usage
    # The answer is on its way before it is counted.
    wait_until(lambda: proxy.total("quotapool_requests_total") > 0, "the request is counted")
    assert proxy.total("quotapool_requests_total", status="200") == 1
    tokens = proxy.total("quotapool_tokens_total", kind="prompt") + proxy.total(
        "quotapool_tokens_total", kind="completion"
    )
    assert tokens == answer.usage.total_tokens
    assert proxy.stop() == 0
