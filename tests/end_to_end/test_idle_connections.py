"""An idle upstream connection that the server closes under a new request never becomes a client's error.

Servers close idle connections after a few seconds (llama.cpp: 5), just when the proxy may be sending on them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


class ImpatientServer:
    """Keeps each connection open after its first answer, and closes it when a second request comes in."""

    def __init__(self) -> None:
        self.closed_under_a_request = 0
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.read_request(reader)
        body = json.dumps(ANSWER).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nKeep-Alive: timeout=5\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        if await reader.read(1):
            self.closed_under_a_request += 1
        writer.close()

    @staticmethod
    async def read_request(reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        await reader.readexactly(length)


@pytest.fixture
async def server() -> AsyncIterator[ImpatientServer]:
    impatient = ImpatientServer()
    listening = await asyncio.start_server(impatient.connected, "127.0.0.1", 0)
    impatient.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield impatient
    listening.close()


async def test_a_chat_sent_on_a_connection_that_is_just_closing_is_sent_again(server: ImpatientServer, start_proxy):
    keys = [{"id": "alpha", "secret": "sk-idle-test-alpha"}, {"id": "bravo", "secret": "sk-idle-test-bravo"}]
    proxy = await asyncio.to_thread(start_proxy, {"upstream": server.url, "keys": keys})
    async with AsyncOpenAI(base_url=proxy.base_url, api_key="any", max_retries=0) as client:

        async def chat() -> str:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
            return answer.choices[0].message.content

        # If 12 connections are open and idle, and all close under the next 12 requests,
        assert await asyncio.gather(*(chat() for _ in range(12))) == ["hello"] * 12
        # I expect nobody to notice.
        assert await asyncio.gather(*(chat() for _ in range(12))) == ["hello"] * 12

    assert server.closed_under_a_request > 0
