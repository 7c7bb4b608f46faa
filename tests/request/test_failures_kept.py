"""A failure that somebody keeps, as an answer does, keeps neither the request nor its body."""

from __future__ import annotations

import pytest

from tests.fakes.edge import Client, Reply, chat_body, failure


@pytest.mark.parametrize("pieces", [[], [b'{"id":']], ids=["at once", "in the middle"])
async def test_a_failure_that_is_kept_lets_go_of_the_request(open_pool, pieces):
    pool = await open_pool({"a": 1})
    kept = failure("reset")
    pool.upstream.otherwise = Reply(200, pieces=[*pieces, kept])
    client = Client(chat_body())
    await pool.ask(client)
    assert client.status == 502 or client.was_cut
    assert kept.__traceback__ is None
