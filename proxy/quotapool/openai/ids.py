"""Stored objects by their ids: their kinds, where ids stand and what they look like, those in paths and in forms.

Kinds, prefixes and paths: OpenAI's specification 2.3.0. OpenAI's message for an unknown id is quoted word for word if
it is known from a captured body (files, previous responses, fine-tunes); otherwise it is OpenAI's usual sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

LONGEST_ID: Final = 512  # characters; anything longer is not an id
_ENCRYPTED_HEAD: Final = 96  # characters that are unique to an encrypted reasoning: version, time, random bytes

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
AUDIO: Final = Kind("audio", "audio_", "Audio with id '{id}' not found.", "recent")
ITEM: Final = Kind("item", "", "Item with id '{id}' not found.", "recent")
ENCRYPTED: Final = Kind("encrypted_item", "enc:", "The encrypted content could not be verified.", "recent")
OTHER: Final = Kind("other", "", "No object found with id '{id}'.")

KINDS: Final = (
    FILE, UPLOAD, BATCH, VECTOR_STORE, JOB, ASSISTANT, EVAL, VIDEO, SKILL, VOICE, CONSENT, AGENT, VAULT,
    CHATKIT_SESSION, CHATKIT_THREAD, CONVERSATION, THREAD, CONTAINER, MODEL, PROMPT, RESPONSE, CHAT, CALL, LIVE,
    AUDIO, ENCRYPTED, ITEM, OTHER,
)  # fmt: skip

FIELDS: Final[dict[str, Kind]] = {
    "previous_response_id": RESPONSE,
    "comparison_response_id": RESPONSE,
    "response_id": RESPONSE,
    "conversation": CONVERSATION,
    "input_file_id": FILE,
    "output_file_id": FILE,
    "error_file_id": FILE,
    "training_file": FILE,
    "validation_file": FILE,
    "file_id": FILE,
    "file_ids": FILE,
    "vector_store_id": VECTOR_STORE,
    "vector_store_ids": VECTOR_STORE,
    "container": CONTAINER,
    "container_id": CONTAINER,
    "thread_id": THREAD,
    "assistant_id": ASSISTANT,
    "agent_id": AGENT,
    "vault_id": VAULT,
    "vault_ids": VAULT,
    "skill_id": SKILL,
    "eval_id": EVAL,
    "consent": CONSENT,
    "consent_id": CONSENT,
    "video": VIDEO,
    "video_id": VIDEO,
    "voice": VOICE,
}
"""Members that name objects: in requests, forms, the events of sessions, and answers. A value needs its kind's prefix
to be an id; without it (a client's own words, another server's ids) it is one only if the proxy saw it made."""
OFTEN_WORDS: Final = frozenset({CONVERSATION, CONTAINER, VIDEO, VOICE, SKILL})
"""Kinds whose members have words of OpenAI's for values, too ("auto", "none", "alloy"): without the prefix, no id."""
USERS_OWN: Final = frozenset(
    {"annotations", "arguments", "attributes", "client_metadata", "env", "examples", "headers", "input_schema",
     "item_schema", "logprobs", "metadata", "output_schema", "outputs", "parameters", "results", "schema",
     "state_variables"}
)  # fmt: skip
"""Members that contain the user's own words and names, or history that only mentions what was once used."""

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
    nothing if not: encrypted reasoning, ids in the history that a client sends back, models, stored prompts. A
    `private` hint is refused if the id is another client's: upstream would read what is stored under it."""

    kind: Kind
    id: str
    param: str = ""
    hint: bool = False
    private: bool = False

    @property
    def is_copy(self) -> bool:
        """An item that is sent with its content: upstream reads it on any account."""
        return self.kind is ITEM and self.hint and not self.private


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
    if head == "models":
        return ObjectPath(MODEL, "/".join(rest), query=query)
    if not rest or rest[0] in _VERBS:
        return ObjectPath(kind, tail="/".join(rest), query=query)
    return ObjectPath(kind, rest[0], "/".join(rest[1:]), query)


def cursors(place: ObjectPath) -> list[Reference]:
    """The ids with which a list is paged: those of its own objects."""
    if place.id or not place.query:
        return []
    pairs = parse_qsl(place.query)
    return [Reference(place.kind, value, name) for name, value in pairs if name in {"after", "before"} and value]


def named(kind: Kind, value: str, param: str) -> Reference | None:
    """What the value of a member in FIELDS names; None: nothing that could be an id."""
    if value.startswith(kind.prefix):
        return Reference(kind, value, param)
    if not value or kind in OFTEN_WORDS or value.startswith("cfile_") or len(value) > LONGEST_ID:
        return None
    return Reference(kind, value, param, hint=True, private=True)


_FORM_FIELDS: Final = {**FIELDS, "video[id]": VIDEO}
_SENT_IN_FORMS: Final = (FILE, VIDEO, CONSENT, SKILL)


def reference_in_part(name: str, value: str) -> Reference | None:
    """The id in a part of a form: the value of a field that names one, or any content that looks like one."""
    kind = _FORM_FIELDS.get(name) or next((kind for kind in _SENT_IN_FORMS if value.startswith(kind.prefix)), None)
    return None if kind is None else named(kind, value, name)


def encrypted_id(content: str) -> str:
    """The id under which encrypted reasoning is remembered."""
    return ENCRYPTED.prefix + content[:_ENCRYPTED_HEAD]


_BY_PREFIX: Final = tuple(kind for kind in KINDS if kind.prefix and kind is not ENCRYPTED)


def kind_of(object_id: str) -> Kind | None:
    """The kind whose prefix the id has; None if it has none of them."""
    return next((kind for kind in _BY_PREFIX if object_id.startswith(kind.prefix)), None)
