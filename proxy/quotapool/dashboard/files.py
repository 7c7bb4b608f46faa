"""The dashboard's page and its assets: read once at start, compressed once. The headers that keep others out are those
of every answer on the operators' port (`admin/listener.py`).

They hold no secret, so they need no token. What the page shows comes from the admin API, which does.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from aiohttp import web

from quotapool.operators.big_answers import takes_gzip

INDEX: Final = "index.html"
ASSETS: Final = "/assets/"
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "map": "application/json",
}
_PACKED: Final = frozenset({"png", "woff2"})  # compressed already
_HASHED: Final = re.compile(r"-[A-Za-z0-9_]{8,64}\.[a-z0-9]+$")  # app-3FJ2K8QD.js, as esbuild names them


@dataclass(frozen=True, slots=True)
class File:
    """One file. `small`: in gzip; None: that is not smaller."""

    body: bytes
    small: bytes | None
    headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, body: bytes) -> File:
        """`name` decides its type, and how long browsers may keep it: for ever, if it has a hash of the content."""
        kind = name.rpartition(".")[2]
        small = None if kind in _PACKED else gzip.compress(body, 9, mtime=0)
        kept = "public, max-age=31536000, immutable" if _HASHED.search(name) else "no-cache"
        headers = {
            "Content-Type": _TYPES.get(kind, "application/octet-stream"),
            "Cache-Control": kept,
            "ETag": f'"{hashlib.sha256(body).hexdigest()[:20]}"',
            "Vary": "Accept-Encoding",
        }
        return cls(body, small if small is not None and len(small) < len(body) else None, headers)

    def answer(self, request: web.Request) -> web.Response:
        """304 to a browser that has it."""
        if self.headers["ETag"] in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=self.headers)
        if self.small is not None and takes_gzip(request.headers.get("Accept-Encoding", "")):
            return web.Response(body=self.small, headers={**self.headers, "Content-Encoding": "gzip"})
        return web.Response(body=self.body, headers=self.headers)


class Files:
    """Those of the package, by name; or `given` ones."""

    def __init__(self, given: Mapping[str, bytes] | None = None) -> None:
        contents = dict(_packaged()) if given is None else given
        self._files = {name: File.of(name, body) for name, body in contents.items()}

    def __repr__(self) -> str:
        return f"<Files {sorted(self._files)}>"

    def add_to(self, app: web.Application) -> None:
        """`/` and what it loads."""
        app.router.add_get("/", self._index)
        app.router.add_get(ASSETS + "{name}", self._asset)

    async def _index(self, request: web.Request) -> web.Response:
        return self._found(INDEX, request)

    async def _asset(self, request: web.Request) -> web.Response:
        return self._found(request.match_info["name"], request)

    def _found(self, name: str, request: web.Request) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        return file.answer(request)


def _packaged() -> Iterator[tuple[str, bytes]]:
    for file in (resources.files(__package__) / "files").iterdir():
        if file.is_file():
            yield file.name, file.read_bytes()
