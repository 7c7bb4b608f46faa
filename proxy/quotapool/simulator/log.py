"""The requests received, for tests of what really left the proxy: the last ones, and how many there were of each.

Secrets are shown as their key's index.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, deque
from typing import Any, Final

import msgspec
from multidict import CIMultiDictProxy

from quotapool.simulator.accounts import Directory

KEPT: Final = 1000
MOST_PATHS: Final = 1000  # that are counted one by one
OTHERS: Final = "others"
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
        self.calls: Counter[str] = Counter()

    def record(self, method: str, path: str, headers: CIMultiDictProxy[str], body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        self.entries.append(LogEntry(time.time(), method, path, headers, digest, len(body)))
        call = f"{method} {path.partition('?')[0]}"
        self.calls[call if call in self.calls or len(self.calls) < MOST_PATHS else OTHERS] += 1

    def clear(self) -> None:
        self.entries.clear()
        self.calls.clear()

    def called(self) -> dict[str, int]:
        """How often each path was called, such as `POST /v1/chat/completions`, whatever became of it."""
        return {self.without_secrets(call): count for call, count in self.calls.items()}

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
