"""A store that lets a script touch only what it declares, as Dragonfly does: a socket in front of a real Valkey.

Each script gets a line before its text that checks the keys of its commands against KEYS. The error is Dragonfly's:
https://www.dragonflydb.io/docs/managing-dragonfly/scripting#allowing-undeclared-keys, with the key that it adds since
https://github.com/dragonflydb/dragonfly/pull/3245.

async with strict_store(valkey_url, tmp_path) as strict:
    store = connect(strict.url)
    ...
    assert strict.refused == []
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis

# Of the commands that our scripts use, TIME has no key, these have keys only, and the others have one, in front.
_CHECK = b"""local is_declared = {} for _, key in ipairs(KEYS) do is_declared[key] = true end
local server = redis
local function check(command, ...)
  local several = command == 'MGET' or command == 'DEL' or command == 'EXISTS'
  for n, key in ipairs({...}) do
    if command == 'TIME' or (n > 1 and not several) then break end
    if not is_declared[key] then error('script tried accessing undeclared key, key: ' .. key) end
  end
end
local redis = {
  call = function(...) check(...) return server.call(...) end,
  pcall = function(...) check(...) return server.pcall(...) end,
}
""".replace(b"\n", b" ")


class StrictStore:
    """`refused`: the keys, in order, for which a script was stopped. `scripts`: how many calls of scripts came."""

    def __init__(self, store_path: str, path: Path) -> None:
        self.url = f"unix://{path}"
        self.refused: list[str] = []
        self.scripts = 0
        self._store_path = store_path
        self._checked: dict[bytes, bytes] = {}  # SHA-1 of a script -> of the same with its check
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_unix_connection(self._store_path)
        self.writers |= {writer, store_writer}
        answers = asyncio.create_task(self._answers(store_reader, writer))
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):  # the latter: its test has failed
            while data := await reader.read(2**16):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    store_writer.write(hiredis.pack_command(tuple(self._with_check(command))))
        answers.cancel()
        store_writer.close()

    def _with_check(self, command: list[bytes]) -> list[bytes]:
        name, *words = command
        if name.upper() == b"EVAL":
            self.scripts += 1
            text = _CHECK + words[0]
            self._checked[_sha1(words[0])] = _sha1(text)
            return [name, text, *words[1:]]
        if name.upper() == b"EVALSHA":
            self.scripts += 1
            return [name, self._checked.get(words[0], words[0]), *words[1:]]  # not known here: nor to the store
        return command

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if data.startswith(b"-") and b"undeclared key, key: " in data:
                self.refused.append(data.split(b"undeclared key, key: ")[1].split(b" script: ")[0].decode())
            writer.write(data)
        writer.close()


def _sha1(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


@contextlib.asynccontextmanager
async def strict_store(store_url: str, directory: Path) -> AsyncIterator[StrictStore]:
    """One in front of the store at `store_url` (`unix://`)."""
    path = directory / "strict.sock"
    between = StrictStore(store_url.removeprefix("unix://"), path)
    server = await asyncio.start_unix_server(between.serve, path)
    try:
        yield between
    finally:
        server.close()
        for writer in between.writers:
            writer.close()
