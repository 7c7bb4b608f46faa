"""The lean connection of `resp.py` in a Cluster: to the primary that holds a key's slot, also after the slot has moved.

redis-py reads and keeps the table of which node holds which slot; this module asks that table before each call. If a
node replies that the slot is another's (MOVED, ASK), nothing has run, so the call goes there at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as errors
from redis.asyncio import RedisCluster

from quotapool.store.address import Address, Kind
from quotapool.store.resp import ErrorReply, RespConnection

_MOST_REDIRECTS: Final = 4  # a slot that is handed on more often within a call is not settled yet
_LOST_IN_A_ROW: Final = 2  # until it is read again which node holds what
_SCRIPTS_FIRST_KEY: Final = 3  # EVALSHA <sha> <number of keys> <key> ...


class ClusterConnection:
    """Has `RespConnection`'s promises for each of the calls that a redirection makes of one; connects to each primary
    that is called, and to no other node."""

    def __init__(self, client: RedisCluster, address: Address, timeout_s: float) -> None:
        self._client = client
        self._address = address
        self._timeout_s = timeout_s
        self._connections: dict[tuple[str, int], RespConnection] = {}
        self._knows_slots = False
        self._lost_in_a_row = 0

    async def call(self, *command: bytes) -> Any:
        """The reply to EVALSHA or EVAL of at least one key. Raises RespBroken, ErrorReply; redis-py's errors and
        TimeoutError while nothing was sent, since it is not known which node to send it to."""
        if not self._knows_slots:
            async with asyncio.timeout(self._timeout_s):
                await self._client.initialize()
            self._knows_slots = True
        key = command[_SCRIPTS_FIRST_KEY]
        for _ in range(_MOST_REDIRECTS):
            try:
                reply = await self._to(*self._holder(key)).call(*command)
            except ErrorReply as error:
                code, _, place = str(error).partition(" ")
                if code == "MOVED":
                    await self._note_moved(errors.MovedError(place), key)
                elif code == "ASK":
                    return await self._ask(errors.AskError(place), command)
                else:
                    raise
            else:
                self._lost_in_a_row = 0
                return reply
        raise ErrorReply("CLUSTERDOWN the slot is moved from node to node")

    async def note_lost(self, reason: str) -> None:
        """A call failed, here or in redis-py, for this reason of a `StoreLost`. One call more or less is no proof, so
        the nodes are read again only after some failures in a row, or when a primary has become a replica."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= _LOST_IN_A_ROW or reason == "read_only":
            self._lost_in_a_row = 0
            self._knows_slots = False
            self.close()
            await self._client.aclose()  # the next call reads the nodes from any one of those known

    def note_answered(self) -> None:
        """A call of redis-py was answered."""
        self._lost_in_a_row = 0

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _holder(self, key: bytes) -> tuple[str, int]:
        """Raises redis-py's SlotNotCoveredError."""
        node = self._client.get_node_from_key(key)  # type: ignore[arg-type] # bytes are taken as they are
        if node is None:  # redis-py says so only of a replica
            raise errors.SlotNotCoveredError("no node has the slot")
        return node.host, int(node.port)

    def _to(self, host: str, port: int) -> RespConnection:
        connection = self._connections.get((host, port))
        if connection is None:
            address = replace(self._address, kind=Kind.SINGLE, hosts=((host, port),))
            connection = self._connections[host, port] = RespConnection(address, self._timeout_s)
        return connection

    async def _note_moved(self, moved: errors.MovedError, key: bytes) -> None:
        """The reply is newer than what a third node would tell, so it alone is entered into redis-py's table."""
        moved.host = moved.host or self._holder(key)[0]  # left out: the same host
        await self._client.nodes_manager.move_slot(moved)

    async def _ask(self, ask: errors.AskError, command: tuple[bytes, ...]) -> Any:
        """This call alone goes to the node that is about to take the slot over. If that does not have all of the keys
        yet, it replies TRYAGAIN, and nothing has run."""
        target = self._to(ask.host or self._holder(command[_SCRIPTS_FIRST_KEY])[0], ask.port)
        await target.call(b"ASKING")
        return await target.call(*command)
