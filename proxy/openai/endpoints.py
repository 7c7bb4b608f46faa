"""Which endpoint of the OpenAI API a request means, and what the proxy may do with it.

Paths are normalised only to decide; what goes upstream is the client's own path, byte for byte. So anything
that upstream might read differently than we do (dot segments, encoded slashes, double encoding) is refused,
and organization and dashboard paths are refused in every spelling.
Endpoints: OpenAI's specification 2.3.0 and the Python SDK 3.54.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import unquote

from proxy.openai.replies import METHOD_NOT_ALLOWED, PATH_NOT_ALLOWED, PATH_NOT_FOUND, ProxyError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of an endpoint before its body is read.

    `name` is a metric label from a fixed set. `estimate` tells how to count tokens; None: one request, no tokens.
    `replayable` requests may be sent again after bytes of them were written; where `replay_asks_body`, only if
    the body asks for neither `background` nor `conversation`. `dialect` is how its SSE reports usage and errors.
    `json_body`: worth buffering and reading where the content type is JSON (several also take multipart).
    """

    name: str
    estimate: Literal["chat", "completions", "responses", "embeddings"] | None = None
    replayable: bool = False
    dialect: Literal["chat", "responses"] | None = None
    json_body: bool = False
    replay_asks_body: bool = False


_INFERENCE: Final[dict[str, Endpoint]] = {
    "chat/completions": Endpoint("chat", "chat", replayable=True, dialect="chat", json_body=True),
    "completions": Endpoint("completions", "completions", replayable=True, dialect="chat", json_body=True),
    "responses": Endpoint(
        "responses", "responses", replayable=True, dialect="responses", json_body=True, replay_asks_body=True
    ),
    "embeddings": Endpoint("embeddings", "embeddings", replayable=True, json_body=True),
    "moderations": Endpoint("moderations", replayable=True, json_body=True),
}

# The first path segment is the metric label.
NAMES: Final = frozenset(
    """
    agents assistants audio batches chat chatkit completions containers content_provenance_checks conversations
    decisions embeddings evals files fine_tuning images live models moderations realtime responses skills
    threads uploads vaults vector_stores videos
    """.split()  # noqa: SIM905  a list of 27 quoted words reads worse
)
OTHER: Final = "other"
IMAGES: Final = "images"  # counts against images per minute

# POST bodies that are multipart or SDP, never JSON: they are streamed through unread.
_NOT_JSON: Final = re.compile(
    r"files|uploads/[^/]+/parts|audio/(?:transcriptions|translations|voices|voice_consents)|images/variations"
    r"|content_provenance_checks|containers/[^/]+/files|skills|skills/[^/]+/versions"
)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # TRACE echoes keys
_NEVER_FORWARDED: Final = frozenset({"organization", "organizations", "dashboard"})
_FIRST_SEGMENT: Final = re.compile(r"/v1/([A-Za-z0-9_-]+)(?:/|\Z)", re.ASCII)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_HIDDEN: Final = re.compile(r"[\x00-\x20\x7f]")
_MAX_DECODINGS: Final = 8

_HOT: Final[dict[tuple[str, str], Endpoint]] = {("POST", f"/v1/{path}"): e for path, e in _INFERENCE.items()} | {
    ("GET", "/v1/models"): Endpoint("models", replayable=True)
}


def resolve(method: str, raw_path: str) -> Endpoint | ProxyError:
    """The endpoint of a request target (path, optional query) as the client sent it, or why it is refused."""
    hot = _HOT.get((method, raw_path))
    if hot is not None:
        return hot
    path = re.split(r"[?#]", raw_path, maxsplit=1)[0]
    segments, plain = _read(path)
    after_v1 = next((s for s in segments if s.casefold() != "v1"), "")
    if after_v1.casefold() in _NEVER_FORWARDED:
        return PATH_NOT_ALLOWED
    first = _FIRST_SEGMENT.match(path)
    if not plain or first is None or first[1].casefold() == "v1":
        return PATH_NOT_FOUND
    if method not in _METHODS:
        return METHOD_NOT_ALLOWED
    return _describe(method, "/".join(segments[1:]).casefold())


def _describe(method: str, path: str) -> Endpoint:
    first = path.partition("/")[0]
    name = first if first in NAMES else OTHER
    if method in {"GET", "HEAD"}:
        return Endpoint(name, replayable=True)
    if method != "POST":
        return Endpoint(name)
    known = _INFERENCE.get(path)
    if known is not None:
        return known
    return replace(Endpoint(name), json_body=name != OTHER and not _NOT_JSON.fullmatch(path))


def _read(path: str) -> tuple[list[str], bool]:
    """The path's segments under the widest reading, and whether that is the only reading there is.

    The widest reading decodes until nothing changes, takes `\\` for `/`, drops control characters, `;parameters`
    and empty segments, and resolves dots. An empty segment or an encoded letter alone changes no meaning.
    """
    decoded = unquote(path)
    plain = decoded.isascii() and len(_ESCAPE.findall(path)) == path.count("%")
    plain = plain and decoded.count("/") == path.count("/") and "\\" not in decoded
    plain = plain and not _ESCAPE.search(decoded) and not _HIDDEN.search(decoded)
    for _ in range(_MAX_DECODINGS):
        again = unquote(decoded)
        if again == decoded:
            break
        decoded = again
    segments: list[str] = []
    for segment in _HIDDEN.sub("", decoded).replace("\\", "/").split("/"):
        name = segment.partition(";")[0]
        if name in {".", ".."}:
            plain = False
            if name == "..":
                del segments[-1:]
        elif name:
            segments.append(name)
    return segments, plain
