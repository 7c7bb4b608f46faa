"""The store, whatever its kind: deadlines, no hidden retries, errors that tell whether the command was sent.

Two promises, and why redis-py's defaults do not give them:

- A command is sent at most once. redis-py repeats a command whose answer was lost, ten times by default; a
  repeated reserve would charge twice, so retries are off and `StoreLost.sent` leaves the decision to the caller.
- A call ends within `timeout_s`, connecting included. A connection that timed out is closed, never reused: a
  late reply must not become the reply to the next command.

RESP2 is chosen on purpose. Under RESP3 redis-py switches on maintenance notifications, which stretch timeouts
and stop the pool from noticing that the server closed an idle connection.

Every failure is a StoreError; which one is raised when: `failures.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from redis import exceptions as errors
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from quotapool.store.address import Address, Kind, Login, parse
from quotapool.store.cluster import ClusterConnection
from quotapool.store.failures import (
    REDIS_ERRORS,
    StoreError,
    StoreLost,
    StoreRefused,
    StoreUnavailable,
    StoreUnfit,
    reason_of,
    translated,
)
from quotapool.store.resp import ErrorReply, RespBroken, RespConnection

MAX_CONNECTIONS: Final = 64
CALL_S: Final = 0.25  # of a whole call, where a request waits for it

Argument = bytes | str | int | float
T = TypeVar("T")
_UNDECLARED: Final = "undeclared key"  # Dragonfly: "script tried accessing undeclared key, key: ..."


def text_of(raw: bytes | str) -> str:
    """A stored text; redis-py's types leave open whether it decodes replies (here it does not)."""
    return raw if isinstance(raw, str) else raw.decode()


class Script:
    """A Lua script: its text, and the SHA-1 by which servers know it."""

    def __init__(self, name: str, text: bytes) -> None:
        self.name = name
        self.text = text
        self.sha1 = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self.sha1_bytes = self.sha1.encode()

    @classmethod
    def of(cls, package: str | None, name: str, parts: Sequence[str] = ()) -> Script:
        """`lua/<name>.lua` of a package, which passes its own `__package__`. `parts`: it is the files of these names
        in the folder `lua/<name>`, in this order."""
        folder = resources.files(package or "") / "lua"
        files = [folder / name / f"{part}.lua" for part in parts] or [folder / f"{name}.lua"]
        return cls(name, b"".join(file.read_bytes() for file in files))


class Store:
    """The store of one process. `client` serves ordinary commands, through `guard`."""

    def __init__(
        self, client: Redis | RedisCluster, address: Address, timeout_s: float, sentinel: Sentinel | None = None
    ) -> None:
        self.client = client
        self.timeout_s = timeout_s
        self._address = address
        self._sentinel = sentinel
        master = partial(_master, sentinel, address.master) if sentinel is not None else None
        self._cluster = ClusterConnection(client, address, timeout_s) if isinstance(client, RedisCluster) else None
        self._resp = self._cluster or RespConnection(address, timeout_s, master)
        # In a cluster always: a slot that is moving has some of the keys, and refuses a call only for those it is told.
        self._declares_keys = self._cluster is not None
        single = address.kind in {Kind.UNIX, Kind.SINGLE}
        self._attempts = 1 if single else 2 + len(address.hosts)  # others may first have to find the right server

    def describe(self) -> str:
        """Where it is, without credentials."""
        return self._address.describe()

    def check_files(self) -> None:
        """Raises StoreUnfit if a file of the URL's TLS options cannot be read."""
        tls = self._address.tls
        for path in (tls.ca_file, tls.cert_file, tls.key_file) if tls is not None else ():
            try:
                if path is not None:
                    Path(path).open("rb").close()
            except OSError as error:
                raise StoreUnfit(f"{self.describe()}: cannot read {path}: {error.strerror}") from error

    async def check_sentinels(self) -> None:
        """Raises StoreLost, in the words of one of the Sentinels, if none answers; redis-py only counts them."""
        lost: StoreLost | None = None
        for sentinel in self._sentinel.sentinels if self._sentinel is not None else ():
            try:
                await self.guard(sentinel.ping())
            except StoreLost as error:
                lost = error
            else:
                return
        if lost is not None:
            raise lost

    async def evalsha_batch(
        self,
        script: Script,
        key: bytes | str,
        *args: bytes | str,
        further_keys: Callable[[], Sequence[str]] = tuple,
    ) -> bytes:
        """`evalsha` with KEYS[1] = `key`, for a script that returns one string; the quickest way, one call at a time.

        `further_keys` are those that the script derives from it. They are declared only where that is needed: in a
        cluster, and once a server has refused the script for it. The script must read one before it writes anything.
        """
        words = [arg.encode() if isinstance(arg, str) else arg for arg in (key, *args)]
        try:
            if not self._declares_keys:
                try:
                    return await self._run(script, 1, words)
                except ErrorReply as error:
                    if _UNDECLARED not in str(error):
                        raise
                    self._declares_keys = True
            keys = [name.encode() for name in further_keys()]
            return await self._run(script, 1 + len(keys), [words[0], *keys, *words[1:]])
        except RespBroken as broken:
            lost = StoreLost(reason_of(broken, broken.reason), sent=broken.sent, detail=str(broken))
            raise await self._lost(lost) from broken
        except ErrorReply as error:
            failure = translated(error, sent=True, of_script=True)
            if isinstance(failure, StoreLost):
                self._resp.close()
            raise await self._lost(failure) from error
        except REDIS_ERRORS as error:  # of a cluster's table of slots
            raise await self._lost(translated(error, sent=False)) from error

    async def _run(self, script: Script, keys: int, words: list[bytes]) -> bytes:
        arguments = (b"%d" % keys, *words)
        try:
            reply = await self._resp.call(b"EVALSHA", script.sha1_bytes, *arguments)
        except ErrorReply as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            reply = await self._resp.call(b"EVAL", script.text, *arguments)
        return cast("bytes", reply)

    async def evalsha(self, script: Script, keys: Sequence[bytes | str], args: Sequence[Argument]) -> Any:
        """Run `script` with KEYS = `keys` (at least one, all of one slot) and ARGV = `args`.

        A server that does not know the script (restarted, failed over) gets its text with a second call, which is
        safe: NOSCRIPT means that the script did not run. Raises StoreLost, StoreRefused.
        """
        try:
            return await self._once("EVALSHA", script.sha1, len(keys), *keys, *args)
        except errors.NoScriptError:
            pass
        return await self._once("EVAL", script.text, len(keys), *keys, *args)

    async def guard(self, call: Awaitable[T]) -> T:
        """The reply to one of `client`'s commands. Raises StoreLost, StoreRefused instead of redis-py's errors."""
        try:
            async with asyncio.timeout(self.timeout_s * self._attempts):
                return await call
        except REDIS_ERRORS as error:
            raise await self._lost(translated(error, sent=True)) from error

    async def ping(self) -> None:
        """Check that the store answers; also the way to find a lost store again, so it may take longer.

        If a Sentinel or a cluster's node does not answer, the next one is tried only after `timeout_s`, when a
        command's own deadline would be over. Raises StoreLost.
        """
        try:
            async with asyncio.timeout(self.timeout_s * (2 + len(self._address.hosts))):
                await self.client.execute_command("PING")
        except REDIS_ERRORS as error:
            raise await self._lost(translated(error, sent=False)) from error

    async def close(self) -> None:
        self._resp.close()
        await self.client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _once(self, *command: Argument) -> Any:
        client, sent = self.client, False
        try:
            async with asyncio.timeout(self.timeout_s):
                if isinstance(client, RedisCluster):
                    await client.initialize()  # learns which node holds which slot; free when that is known
                    sent = True
                    reply = await client.execute_command(*command)
                    if self._cluster is not None:
                        self._cluster.note_answered()
                    return reply
                pool = client.connection_pool
                connection = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py has no hints here
                try:
                    sent = True  # before the call: a write that fails half-way may have arrived
                    await connection.send_command(*command)
                    return await connection.read_response()
                finally:
                    await pool.release(connection)
        except REDIS_ERRORS as error:
            raise await self._lost(translated(error, sent=sent, of_script=True)) from error

    async def _lost(self, error: Exception) -> Exception:
        """Drop the idle connections to a server that was lost: its name may lead to another one now."""
        if not isinstance(error, StoreLost):
            return error
        if self._cluster is not None:
            await self._cluster.note_lost(error.reason)
        elif error.reason != "too_many_calls" and not isinstance(self.client, RedisCluster):
            await self.client.connection_pool.disconnect(inuse_connections=False)
        return error


async def _master(sentinel: Sentinel, name: str) -> tuple[str, int]:
    """Raises ConnectionError: no Sentinel knows a master that is well."""
    try:
        host, port = await sentinel.discover_master(name)
    except errors.RedisError as error:
        raise ConnectionError(str(error).partition(" : ")[0]) from error  # the rest is redis-py's insides
    return str(host), int(port)


def connect(url: str, *, timeout_s: float = CALL_S, ca_file: str | None = None) -> Store:
    """The store that `url` names (kinds and options: `address.py`). Connects at the first command.

    `timeout_s` bounds a whole call in seconds. Raises ValueError for a URL that cannot be understood.
    """
    address = parse(url, ca_file=ca_file)
    common: dict[str, Any] = {
        # With a `socket_timeout` redis-py sends through `asyncio.wait_for`, which in Python 3.11 can swallow a
        # cancellation: a cancelled task would run forever. `Store` has deadlines of its own.
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        "driver_info": None,  # no CLIENT SETINFO: two round trips fewer for each new connection
        "client_name": address.client_name,
        "max_connections": MAX_CONNECTIONS,
    }
    login, tls = _login(address.login), _tls(address)
    if address.kind is Kind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        cluster = RedisCluster(startup_nodes=nodes, ssl=address.tls is not None, **common, **login, **tls)
        return Store(cluster, address, timeout_s)
    if address.kind is Kind.SENTINEL:
        sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis-py has no hints here
            address.hosts,
            sentinel_kwargs=common  # after `timeout_s` without an answer the next one is tried
            | {"socket_timeout": timeout_s, "ssl": address.tls is not None}
            | _login(address.sentinel_login)
            | tls,
            **common,
        )
        master = sentinel.master_for(address.master, db=address.db, ssl=address.tls is not None, **login, **tls)
        return Store(master, address, timeout_s, sentinel)
    if address.kind is Kind.UNIX:
        pool = ConnectionPool(UnixDomainSocketConnection, path=address.path, db=address.db, **common, **login)
    else:
        ((host, port),) = address.hosts
        transport = SSLConnection if address.tls else Connection
        pool = ConnectionPool(transport, host=host, port=port, db=address.db, **common, **login, **tls)
    return Store(Redis.from_pool(pool), address, timeout_s)


def _login(login: Login) -> dict[str, Any]:
    return {"username": login.username, "password": login.password}


def _tls(address: Address) -> dict[str, Any]:
    if address.tls is None:
        return {}
    return {
        "ssl_ca_certs": address.tls.ca_file,
        "ssl_certfile": address.tls.cert_file,
        "ssl_keyfile": address.tls.key_file,
        "ssl_cert_reqs": "required" if address.tls.verify else "none",
        "ssl_check_hostname": address.tls.verify and address.tls.check_hostname,
    }


__all__ = [
    "Script",
    "Store",
    "StoreError",
    "StoreLost",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnfit",
    "connect",
    "text_of",
]
