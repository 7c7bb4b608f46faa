"""How the store fails: the errors that callers get, made of redis-py's, the system's and the server's own.

Every failure is a StoreError. Which one is raised when:

- StoreLost: one call failed, since the store cannot be reached, is not in time, or cannot serve now (it loads, is a
  replica, is out of memory, has too many clients, is no Redis, ...). Calling again may help;
  `sent` tells whether the command may have taken effect. The connections are dropped, so that the next call finds the
  server that has the name then.
- StoreUnavailable: calls were repeated until the caller's patience ended, or the store was known to be away. The ledger
  raises it, not this module; a request that meets it is refused.
- StoreRefused: the server rejected the command itself, as a wrong argument or an error in a script: a bug of ours.
- StoreUnfit: only by `verify.py`, at the start: the store works, but may not be used as it is set up.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

from redis import exceptions as errors
from redis.asyncio.sentinel import MasterNotFoundError

# redis-py's cluster errors are no RedisErrors; built-in TimeoutError, of our deadlines, is an OSError.
REDIS_ERRORS: Final = (errors.RedisError, errors.RedisClusterException, OSError)


class StoreError(Exception):
    """Any failure of the store; the module's docstring tells which subclass is raised when."""


class StoreLost(StoreError):
    """A call failed. `reason` is a stable word for metrics; `detail`, for people, has the server's words, or OpenSSL's.

    `sent` is False only if the command certainly had no effect: nothing was written to a socket, or the server
    replied that it did not run it. True means "perhaps it ran".
    """

    def __init__(self, reason: str, *, sent: bool, detail: str = "") -> None:
        super().__init__(f"the store is lost ({reason}): {detail}" if detail else f"the store is lost ({reason})")
        self.reason = reason
        self.sent = sent
        self.detail = detail

    @property
    def is_lasting(self) -> bool:
        """Whether it is of no use to wait: only somebody who changes the URL, a file or the server's users can help."""
        return self.reason in _LASTING


class StoreUnavailable(StoreError):
    """The store did not answer within the caller's patience."""


class StoreRefused(StoreError):
    """The server rejected a command: a bug in a script or in its caller."""


class StoreUnfit(StoreError):
    """The store must not be used as it is set up; the message says what to change."""


# First word of an error reply that means "not run, because of the server's condition" -> reason.
# A script gets the same errors from its first write, so nothing of it has taken effect either.
_NOT_RUN: Final = {
    "LOADING": "loading",
    "READONLY": "read_only",
    "MASTERDOWN": "read_only",
    "OOM": "out_of_memory",
    "MISCONF": "disk",
    "BUSY": "busy",
    "NOREPLICAS": "replicas",
    "CLUSTERDOWN": "cluster_down",
    "TRYAGAIN": "cluster_down",
    "MOVED": "cluster_down",
    "NOAUTH": "login",
    "WRONGPASS": "login",
}
# Redis before 7 quotes the error in one of its own: "ERR Error running script (...): @user_script: 1: -READONLY ..."
_QUOTED: Final = re.compile(r": -([A-Z]+) ")
_NO_ADDRESS: Final[int] = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)  # POSIX has only the latter
_UNKNOWN_HOST: Final = re.compile(rf"Error ({socket.EAI_NONAME}|{_NO_ADDRESS}) connecting")
_LASTING: Final = frozenset({"login", "permission", "tls", "host", "protocol"})


def translated(error: Exception, *, sent: bool, of_script: bool = False) -> Exception:
    """Our exception for one of redis-py's, or for an ErrorReply. redis-py's NOSCRIPT stays as it is, for `evalsha`."""
    detail = str(error)
    code = getattr(error, "status_code", None) or detail.partition(" ")[0]
    if isinstance(error, errors.NoScriptError):
        return error
    if quoted := _QUOTED.search(detail):
        code = quoted[1]
    if code in _NOT_RUN:
        return StoreLost(_NOT_RUN[code], sent=False, detail=detail)
    if isinstance(error, errors.AuthenticationError):
        return StoreLost("login", sent=False, detail=detail)
    if code == "NOPERM" or isinstance(error, errors.NoPermissionError):
        # A script may have written before it came to the forbidden command.
        return StoreLost("permission", sent=sent, detail=detail)
    if isinstance(error, errors.InvalidResponse):
        return StoreLost("protocol", sent=sent, detail=f"what answers there speaks no RESP ({detail})")
    if isinstance(error, errors.MaxConnectionsError):
        return StoreLost("too_many_calls", sent=False, detail=detail)
    if "max number of clients" in detail:
        return StoreLost("server", sent=False, detail=detail)
    if isinstance(error, errors.TimeoutError | TimeoutError):
        return StoreLost("timeout", sent=sent, detail=detail or "no answer in time")
    if isinstance(error, MasterNotFoundError):  # with the insides of redis-py behind a colon
        return StoreLost("connect", sent=False, detail=detail.partition(" : ")[0])
    if isinstance(error, errors.ConnectionError | OSError):
        return StoreLost(reason_of(error, "closed" if sent else "connect"), sent=sent, detail=detail)
    if isinstance(error, errors.RedisClusterException):
        return StoreLost(reason_of(error, "cluster_down"), sent=sent, detail=detail)
    if of_script and "script" not in detail and "unknown command" not in detail:
        # Neither the script's error nor one about it: of the server, or of a proxy before it.
        return StoreLost("server", sent=sent, detail=detail)
    return StoreRefused(detail)


def reason_of(error: BaseException, otherwise: str) -> str:
    """`tls` if a handshake failed, `host` if no such host is known. redis-py only quotes such an error."""
    text = str(error)
    if isinstance(error.__cause__, ssl.SSLError) or "[SSL" in text or "[X509" in text:
        return "tls"
    unknown = isinstance(error.__cause__, socket.gaierror) and error.__cause__.errno != socket.EAI_AGAIN
    return "host" if unknown or _UNKNOWN_HOST.search(text) else otherwise
