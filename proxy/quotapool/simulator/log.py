"""The last requests received, for tests of what really left the proxy. Secrets are shown as their key's index."""

from __future__ import annotations

import hashlib
import re
import time
from collections import deque
from typing import Any, Final

import msgspec
from multidict import CIMultiDictProxy

from quotapool.simulator.accounts import Directory

KEPT: Final = 1000
SECRET: Final = re.compile(r"\b(?:sk|sess)-[A-Za-z0-9_-]{8,}")


class LogEntry(msgspec.Struct, frozen=True):
    at: float
    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body_sha256: str
    body_bytes: int


class RequestLog:
    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.entries: deque[LogEntry] = deque(maxlen=KEPT)

    def record(self, method: str, path: str, headers: CIMultiDictProxy[str], body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        self.entries.append(LogEntry(time.time(), method, path, headers, digest, len(body)))

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last `count` requests, oldest first; headers are [name, value] pairs in the order of their arrival."""
        return [
            {
                **msgspec.structs.asdict(entry),
                "path": self.without_secrets(entry.path),
                "headers": [[str(name), self.header_value(name, value)] for name, value in entry.headers.items()],
            }
            for entry in list(self.entries)[-count:]
        ]

    def header_value(self, name: str, value: str) -> str:
        if name.lower() == "authorization":
            scheme, _, secret = value.partition(" ")
            return f"{scheme} {self.name_of(secret.strip())}"
        return self.without_secrets(value)

    def without_secrets(self, text: str) -> str:
        text = SECRET.sub(lambda found: self.name_of(found.group()), text)
        for secret, key in self.directory.by_secret.items():
            text = text.replace(secret, f"<key {key.index}>")
        return text

    def name_of(self, secret: str) -> str:
        key = self.directory.by_secret.get(secret)
        return "<unknown key>" if key is None else f"<key {key.index}>"
