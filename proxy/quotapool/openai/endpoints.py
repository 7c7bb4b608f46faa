"""Which endpoint of the OpenAI API a request is for, and what the proxy may do with it.

Paths are normalised only to decide; what goes upstream is the client's own path, byte for byte. So anything that
upstream might read differently than we do (dot segments, encoded slashes, double encoding) is refused, and organization
and dashboard paths are refused in every spelling. The properties of each path are in the table of `operations.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast
from urllib.parse import unquote, unquote_plus

from quotapool.openai.operations import NEVER_FORWARDED, OPERATIONS, Operation
from quotapool.openai.replies import INVALID_HTTP, METHOD_NOT_ALLOWED, PATH_NOT_ALLOWED, PATH_NOT_FOUND, ProxyError

Estimate = Literal["chat", "completions", "responses", "embeddings"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of an endpoint before its body is read.

    `name` is a metric label from a fixed set. `estimate` is how to count tokens; None: one request, no tokens.
    `replayable` requests may be sent again after bytes of them were written; with `replay_depends_on_body`, only if the
    body asks for neither `background` nor `conversation`. `dialect` is how its SSE reports usage and errors.
    `json_body`: worth buffering and reading if the content type is JSON (several also take multipart).
    `reports_usage`: a JSON answer has a usage. `readable`: the proxy reads its answers, so it asks for them
    uncompressed; otherwise (downloads, unknown paths) the client's own Accept-Encoding is kept.
    `names_model`: the cost depends on the model that the body names.
    `unseen_cost`: it starts what OpenAI charges for without a word of it in any answer here: a job, a video, a session
    that others hold.
    `path` is the operation's template in `operations.py` (`files/{id}/content`), "" if the path is unknown.
    """

    name: str
    estimate: Estimate | None = None
    replayable: bool = False
    dialect: Literal["chat", "responses"] | None = None
    json_body: bool = False
    replay_depends_on_body: bool = False
    reports_usage: bool = False
    readable: bool = True
    names_model: bool = False
    path: str = ""
    unseen_cost: bool = False


OTHER: Final = "other"
IMAGES: Final = "images"  # counts against images per minute
NAMES: Final = frozenset(operation.path.partition("/")[0] for operation in OPERATIONS)
"""The first path segment is the metric label."""

_BY_MODEL: Final = frozenset({"tokens", "images", "audio", "characters", "seconds", "inner"})
_DIALECTS: Final[dict[str, Literal["chat", "responses"]]] = {"chat": "chat", "typed": "responses"}


def _posted(operation: Operation) -> Endpoint:
    return Endpoint(
        operation.path.partition("/")[0],
        cast("Estimate | None", operation.cost or None),
        replayable=bool(operation.replay),
        dialect=_DIALECTS.get(operation.sse),
        # Whatever the table says, it is better to read a small JSON document: it may name a model.
        json_body=operation.body != {"form"},
        replay_depends_on_body=operation.replay == "body",
        reports_usage="json" in operation.usage,
        readable=operation.answer != {"binary"},
        names_model=operation.billed in _BY_MODEL and ("{" not in operation.path or operation.billed == "inner"),
        path=operation.path,
        unseen_cost=operation.billed in {"inner", "seconds"},
    )


def _read_only(operation: Operation) -> Endpoint:
    name = operation.path.partition("/")[0]
    return Endpoint(name, replayable=True, readable=operation.answer != {"binary"}, path=operation.path)


def _changed(operation: Operation) -> Endpoint:
    return Endpoint(operation.path.partition("/")[0], path=operation.path)


class _Branch:
    """The table as a tree of path segments, so that the cost of a look-up depends on the path's length only."""

    __slots__ = ("any", "changed", "named", "posted", "read")

    def __init__(self) -> None:
        self.named: dict[str, _Branch] = {}
        self.any: _Branch | None = None
        self.posted: Endpoint | None = None
        self.read: Endpoint | None = None
        self.changed: Endpoint | None = None

    def add(self, operation: Operation) -> None:
        branch = self
        for segment in operation.path.split("/"):
            if segment == "{id}":
                branch.any = branch.any or _Branch()
                branch = branch.any
            else:
                branch = branch.named.setdefault(segment, _Branch())
        branch.posted, branch.read, branch.changed = _posted(operation), _read_only(operation), _changed(operation)

    def find(self, segments: Sequence[str]) -> _Branch | None:
        branch: _Branch | None = self
        for segment in segments:
            if branch is None:
                return None
            branch = branch.named.get(segment) or branch.any
        return branch


_ROOT: Final = _Branch()
for _operation in OPERATIONS:
    _ROOT.add(_operation)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # TRACE echoes keys
_FIRST_SEGMENT: Final = re.compile(r"/v1/([A-Za-z0-9_-]+)(?:/|\Z)", re.ASCII)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_HIDDEN: Final = re.compile(r"[\x00-\x20\x7f]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_DECODINGS: Final = 8
_MODELS: Final = "/v1/models/"
_SLASH: Final = re.compile("%2F", re.IGNORECASE)

# The most frequent requests are found with one look-up, without parsing their path.
_HOT: Final[dict[tuple[str, str], Endpoint]] = {
    (method, f"/v1/{operation.path}"): (_posted if method == "POST" else _read_only)(operation)
    for operation in OPERATIONS
    for method in operation.methods & {"GET", "POST"}
    if "{" not in operation.path
}


def resolve(method: str, raw_path: str) -> Endpoint | ProxyError:
    """The endpoint of a request target (path, optional query) as the client sent it, or why it is refused."""
    hot = _HOT.get((method, raw_path))
    if hot is not None:
        return hot
    path = re.split(r"[?#]", raw_path, maxsplit=1)[0]
    # A model's name may contain slashes and blanks, encoded or not: without dot segments all readings name a model.
    segments, plain = _read(_SLASH.sub("/", path.replace("%20", "_")) if path.startswith(_MODELS) else path)
    after_v1 = next((s for s in segments if s.casefold() != "v1"), "")
    if after_v1.casefold() in NEVER_FORWARDED:
        return PATH_NOT_ALLOWED
    if "#" in raw_path:  # no request has a fragment, and servers differ in where they end the path
        return INVALID_HTTP
    first = _FIRST_SEGMENT.match(path)
    if not plain or first is None or first[1].casefold() == "v1":
        return PATH_NOT_FOUND
    if method not in _METHODS:
        return METHOD_NOT_ALLOWED
    return _describe(method, [segment.casefold() for segment in segments[1:]])


_PARAMETER: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:\[\])?", re.ASCII)


def session_query(target: str) -> dict[str, str]:
    """The parameters of a WebSocket's target, which choose its model and the session it joins. Raises ValueError if
    upstream might read others: one is given twice, or spelled in an unusual way."""
    found: dict[str, str] = {}
    for pair in target.partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        text = unquote_plus(value)
        if not pair:
            continue
        if not _PARAMETER.fullmatch(name) or ";" in value or _CONTROL.search(text):
            raise ValueError(f"a parameter is spelled in an unusual way: {name[:64]!r}")
        if name.casefold() in found and not name.endswith("[]"):
            raise ValueError(f"a parameter is given twice: {name!r}")
        found[name.casefold()] = text
    return found


def _describe(method: str, segments: Sequence[str]) -> Endpoint:
    branch = _ROOT.find(segments[:2] if segments[:1] == ["models"] else segments)
    reads = method in {"GET", "HEAD"}
    if branch is not None:
        found = branch.read if reads else branch.posted if method == "POST" else branch.changed
        if found is not None:
            return found
    # Not in the table: it is forwarded as one request that is not read.
    name = segments[0] if segments and segments[0] in NAMES else OTHER
    return Endpoint(name, replayable=reads, json_body=method == "POST" and name != OTHER, readable=False)


def _read(path: str) -> tuple[list[str], bool]:
    """The path's segments under the widest reading, and whether that is the only reading there is.

    The widest reading decodes until nothing changes, takes `\\` for `/`, drops control characters, `;parameters`
    and empty segments, and resolves dots. An empty segment or an encoded letter alone changes no meaning.
    """
    decoded = unquote(path)
    plain = decoded.isascii() and len(_ESCAPE.findall(path)) == path.count("%")
    plain = plain and decoded.count("/") == path.count("/") and "\\" not in decoded and ";" not in decoded
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
