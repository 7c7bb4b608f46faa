"""Stored objects by their ids: their kinds, the object that a path points to, and the ids in a request's body.

Kinds, prefixes and paths: OpenAI's specification 2.3.0. OpenAI's message for an unknown id is quoted word for word if
it is known from a captured body (files, previous responses, fine-tunes); otherwise it is OpenAI's usual sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

from quotapool.openai.jsontext import BROKEN

LONGEST_ID: Final = 512  # characters; anything longer is not an id
_ENCRYPTED_HEAD: Final = 96  # characters that are unique to an encrypted reasoning: version, time, random bytes
_MOST_ENCRYPTED: Final = 4  # the last encrypted items of a request are enough to show where it belongs

Retention = Literal["kept", "long", "recent"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of stored object.

    `retention` says how long the owner is remembered: `kept` until the object is deleted, and listed by name; `long`
    for as long, but without the names (OpenAI cannot list them either, or there are too many); `recent` for
    `objects.retention`. `missing` is OpenAI's message for an unknown id.
    """

    name: str
    prefix: str
    missing: str
    retention: Retention = "kept"
    code: str | None = None


FILE: Final = Kind("file", "file-", "No such File object: {id}")
UPLOAD: Final = Kind("upload", "upload_", "Upload with id '{id}' not found.")
BATCH: Final = Kind("batch", "batch_", "No batch found with id '{id}'.")
VECTOR_STORE: Final = Kind("vector_store", "vs_", "Vector store with id '{id}' not found.")
JOB: Final = Kind("fine_tuning_job", "ftjob-", "Could not find fine tune: {id}", code="fine_tune_not_found")
ASSISTANT: Final = Kind("assistant", "asst_", "No assistant found with id '{id}'.")
EVAL: Final = Kind("eval", "eval_", "Eval with id '{id}' not found.")
VIDEO: Final = Kind("video", "video_", "Video with id '{id}' not found.")
SKILL: Final = Kind("skill", "skill_", "Skill with id '{id}' not found.")
VOICE: Final = Kind("voice", "voice_", "Voice with id '{id}' not found.")
CONSENT: Final = Kind("voice_consent", "cons_", "Voice consent with id '{id}' not found.")
AGENT: Final = Kind("agent", "agent_", "Agent with id '{id}' not found.")
VAULT: Final = Kind("vault", "vault_", "Vault with id '{id}' not found.")
CHATKIT_SESSION: Final = Kind("chatkit_session", "cksess_", "Session with id '{id}' not found.", "long")
CHATKIT_THREAD: Final = Kind("chatkit_thread", "cthr_", "Thread with id '{id}' not found.", "long")
CONVERSATION: Final = Kind("conversation", "conv_", "Conversation with id '{id}' not found.", "long")
THREAD: Final = Kind("thread", "thread_", "No thread found with id '{id}'.", "long")
CONTAINER: Final = Kind("container", "cntr_", "Container with id '{id}' not found.", "long")
MODEL: Final = Kind("fine_tuned_model", "ft:", "The model '{id}' does not exist", code="model_not_found")
PROMPT: Final = Kind("prompt", "pmpt_", "Prompt with id '{id}' not found.", "recent")
RESPONSE: Final = Kind("response", "resp_", "Response with id '{id}' not found.", "recent")
CHAT: Final = Kind("chat_completion", "chatcmpl-", "Chat completion with id '{id}' not found.", "recent")
CALL: Final = Kind("realtime_call", "rtc_", "Call with id '{id}' not found.", "recent")
LIVE: Final = Kind("live_session", "sess_", "Session with id '{id}' not found.", "recent")
ITEM: Final = Kind("item", "", "Item with id '{id}' not found.", "recent")
ENCRYPTED: Final = Kind("encrypted_item", "enc:", "The encrypted content could not be verified.", "recent")
OTHER: Final = Kind("other", "", "No object found with id '{id}'.")

KINDS: Final = (
    FILE, UPLOAD, BATCH, VECTOR_STORE, JOB, ASSISTANT, EVAL, VIDEO, SKILL, VOICE, CONSENT, AGENT, VAULT,
    CHATKIT_SESSION, CHATKIT_THREAD, CONVERSATION, THREAD, CONTAINER, MODEL, PROMPT, RESPONSE, CHAT, CALL, LIVE,
    ENCRYPTED, ITEM, OTHER,
)  # fmt: skip

COLLECTIONS: Final[dict[str, Kind]] = {
    "files": FILE,
    "uploads": UPLOAD,
    "batches": BATCH,
    "vector_stores": VECTOR_STORE,
    "fine_tuning/jobs": JOB,
    "assistants": ASSISTANT,
    "threads": THREAD,
    "evals": EVAL,
    "videos": VIDEO,
    "skills": SKILL,
    "agents": AGENT,
    "vaults": VAULT,
    "conversations": CONVERSATION,
    "containers": CONTAINER,
    "responses": RESPONSE,
    "chat/completions": CHAT,
    "audio/voices": VOICE,
    "audio/voice_consents": CONSENT,
    "chatkit/sessions": CHATKIT_SESSION,
    "chatkit/threads": CHATKIT_THREAD,
    "agents/automations": OTHER,
    "agents/environments": OTHER,
    "agents/environments/templates": OTHER,
    "agents/sessions": OTHER,
    "videos/characters": OTHER,
    "realtime/calls": CALL,
    "live/sessions": LIVE,
    "fine_tuning/checkpoints": MODEL,
    "models": MODEL,
}
# Segments that follow a collection's name and are not ids.
_VERBS: Final = frozenset({"compact", "input_tokens", "runs", "edits", "extensions"})
# First segments under which nothing is stored. Unknown ones are assumed to store objects.
_STATELESS: Final = frozenset(
    {"audio", "chat", "chatkit", "completions", "content_provenance_checks", "decisions", "embeddings", "fine_tuning",
     "images", "live", "moderations", "realtime"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """What a path points to: a collection (`id` ""), one of its objects, or something below an object (`tail`)."""

    kind: Kind
    id: str = ""
    tail: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """An id that a request names. `param` "": in its path. A `hint` selects the account if the id is known, and means
    nothing if not: encrypted reasoning, ids in the history that a client sends back, models, stored prompts."""

    kind: Kind
    id: str
    param: str = ""
    hint: bool = False


def object_path(target: str) -> ObjectPath | None:
    """What a request target points to; None: nothing is stored there. Reads spellings as upstream might read them."""
    path, _, query = target.partition("?")
    segments = [segment for segment in unquote(path).split("/") if segment][1:]
    if not segments:
        return None
    heads = ("/".join(segments[:depth]).lower() for depth in range(3, 0, -1))
    head = next((head for head in heads if head in COLLECTIONS), "")
    kind, depth = COLLECTIONS.get(head), head.count("/") + 1
    if kind is None:
        if segments[0].lower() in _STATELESS:
            return None
        kind = OTHER
    rest = segments[depth:]
    if kind is MODEL and not (rest and rest[0].startswith(MODEL.prefix)):
        return None
    if not rest or rest[0] in _VERBS:
        return ObjectPath(kind, tail="/".join(rest), query=query)
    return ObjectPath(kind, rest[0], "/".join(rest[1:]), query)


def cursors(place: ObjectPath) -> list[Reference]:
    """The ids with which a list is paged: those of its own objects."""
    if place.id or not place.query:
        return []
    pairs = parse_qsl(place.query)
    return [Reference(place.kind, value, name) for name, value in pairs if name in {"after", "before"} and value]


# ---- ids in bodies

_FIELDS: Final[dict[str, Kind]] = {
    "previous_response_id": RESPONSE,
    "conversation": CONVERSATION,
    "input_file_id": FILE,
    "training_file": FILE,
    "validation_file": FILE,
    "file_id": FILE,
    "file_ids": FILE,
    "vector_store_id": VECTOR_STORE,
    "vector_store_ids": VECTOR_STORE,
    "container": CONTAINER,
    "thread_id": THREAD,
    "assistant_id": ASSISTANT,
    "skill_id": SKILL,
    "eval_id": EVAL,
    "consent_id": CONSENT,
    "video": VIDEO,
    "voice": VOICE,
}
# The user's own text, or history that only mentions what was once used.
_NOT_SEARCHED: Final = frozenset(
    {"annotations", "arguments", "logprobs", "metadata", "outputs", "parameters", "results", "schema"}
)
_ALWAYS_PREFIXED: Final = frozenset({CONVERSATION, CONTAINER, VIDEO, VOICE})  # "auto", "none", "alloy" are not ids

_MARKS: Final[dict[str, tuple[bytes, ...]]] = {
    "chat": (b'file_id"',),
    "completions": (),
    "embeddings": (),
    "moderations": (),
    "responses": (
        b'_id"', b'_ids"', b'"conversation"', b'"container"', b'"item_reference"', b'"encrypted_content"', b'"pmpt_',
    ),
}  # fmt: skip
_HIDDEN: Final = (b"\\u00", b"\x00")  # a name spelled with escapes, or in UTF-16


def may_reference(endpoint: str, body: bytes, *, strictly: bool) -> bool:
    """Whether this body needs to be decoded: a search for bytes, since most requests name no objects.

    `strictly`: no id may be missed, so unusual spellings of names count too.
    """
    marks = _MARKS.get(endpoint)
    if marks is None:
        return bool(body)
    for mark in marks:
        if mark in body:
            return True
    return strictly and bool(marks) and (_HIDDEN[0] in body or _HIDDEN[1] in body)


MOST_NAMED: Final = 4096  # ids in one request


class _Pairs(list[tuple[str, Any]]):
    """An object with all its members: if a name is repeated, it is not known which one upstream reads."""

    __slots__ = ()


def references_in(body: bytes, *, strictly: bool = False) -> list[Reference]:
    """The ids that a JSON body names, each once; [] if it is not JSON. Raises ValueError if there are too many.

    `strictly`: raises ValueError if it may be JSON but cannot be read here, since upstream might be able to.
    """
    try:
        walked = list(islice(_walk(json.loads(body, object_pairs_hook=_Pairs)), MOST_NAMED + 1))
    except BROKEN as broken:
        if strictly and (b"{" in body or b"\x00" in body):
            raise ValueError("not valid JSON, or nested too deeply") from broken
        return []
    if len(walked) > MOST_NAMED:
        raise ValueError(f"it names more than {MOST_NAMED} objects")
    found: dict[tuple[str, str], Reference] = {}
    encrypted: list[Reference] = []
    for reference in walked:
        if reference.kind is ENCRYPTED:
            encrypted.append(reference)
        elif len(reference.id) <= LONGEST_ID:
            known = found.get((reference.kind.name, reference.id))
            if known is None or known.hint:
                found[reference.kind.name, reference.id] = reference
    return [*found.values(), *encrypted[-_MOST_ENCRYPTED:]]


def _walk(value: object) -> Iterator[Reference]:
    if type(value) is list:
        for element in value:
            yield from _walk(element)
    elif type(value) is _Pairs:
        kinds = [member for name, member in value if name == "type"]
        for name, member in value:
            if name == "id" and type(member) is str:
                if "item_reference" in kinds:
                    yield Reference(ITEM, member, "input")
                elif "file_id" in kinds:
                    yield Reference(FILE, member, "id")
            elif name == "encrypted_content" and type(member) is str and member:
                yield Reference(ENCRYPTED, encrypted_id(member), "input", hint=True)
            elif name == "container_id" and type(member) is str:
                # In a tool: where it is to work. In an item or an annotation: history.
                yield Reference(CONTAINER, member, name, hint="container_reference" not in kinds)
            elif name == "prompt" and type(member) is _Pairs:
                # Prompts are made in the dashboard, so the first successful answer is how we learn of them.
                yield from (
                    Reference(PROMPT, inner, name, hint=True)
                    for key, inner in member
                    if key == "id" and type(inner) is str
                )
                yield from _walk(member)
            elif (kind := _FIELDS.get(name)) is not None:
                yield from _in_field(kind, name, member)
            elif name not in _NOT_SEARCHED and type(member) is not str:
                yield from _walk(member)


def _in_field(kind: Kind, name: str, member: object) -> Iterator[Reference]:
    if type(member) is str:
        if (
            member
            and (kind not in _ALWAYS_PREFIXED or member.startswith(kind.prefix))
            and not member.startswith("cfile_")
        ):
            yield Reference(kind, member, name)
    elif type(member) is list:
        for element in member:
            yield from _in_field(kind, name, element)
    elif type(member) is _Pairs:
        if kind in _ALWAYS_PREFIXED:
            yield from (Reference(kind, inner, name) for key, inner in member if key == "id" and type(inner) is str)
        yield from _walk(member)


_FORM_KINDS: Final = {
    "file_id": FILE,
    "video_id": VIDEO,
    "video[id]": VIDEO,
    "consent": CONSENT,
    "consent_id": CONSENT,
    "skill_id": SKILL,
}


def reference_in_part(name: str, value: str) -> Reference | None:
    """The id in a part of a form: the value of a field that names one, or any content that looks like one."""
    kind = _FORM_KINDS.get(name) or next((k for k in _FORM_KINDS.values() if value.startswith(k.prefix)), None)
    return Reference(kind, value, name) if kind is not None and value else None


def encrypted_id(content: str) -> str:
    """The id under which encrypted reasoning is remembered."""
    return ENCRYPTED.prefix + content[:_ENCRYPTED_HEAD]


_BY_PREFIX: Final = tuple(kind for kind in KINDS if kind.prefix and kind is not ENCRYPTED)


def kind_of(object_id: str) -> Kind | None:
    """The kind whose prefix the id has; None if it has none of them."""
    return next((kind for kind in _BY_PREFIX if object_id.startswith(kind.prefix)), None)
