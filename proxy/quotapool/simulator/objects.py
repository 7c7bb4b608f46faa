"""Stored objects of the simulated OpenAI: each belongs to the account whose key created it and is unknown to others.

Files, uploads, batches, vector stores, conversations, containers, and any other store as plain documents. Stored
responses and chats are kept here too; `responses.py` and `replies.py` create them. A batch completes half a second
after its creation. Bodies for unknown ids are OpenAI's, word for word if known (files, previous responses).
"""

from __future__ import annotations

import email.policy
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from email.parser import BytesParser
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec

from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.parsed_request import CHAT, RESPONSES, ParsedRequest
from quotapool.simulator.replies import Turn, pretty

BATCH_TAKES_S: Final = 0.5
MOST_KEPT: Final = 5_000  # stored responses of one account
_JSON: Final = "application/json"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ObjectReply:
    """An answer about stored objects."""

    body: bytes
    status: int = 200
    type: str = _JSON


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the stores see it: `path` without /v1/, `fields` of a JSON body or a form, `upload` its file."""

    method: str
    path: tuple[str, ...]
    query: dict[str, list[str]]
    fields: Document
    upload: tuple[str, bytes] | None = None


# collection -> (prefix of its ids, `object` of its documents, message for an unknown id)
_COLLECTIONS: Final = {
    "files": ("file-", "file", "No such File object: {id}"),
    "uploads": ("upload_", "upload", "Upload with id '{id}' not found."),
    "batches": ("batch_", "batch", "No batch found with id '{id}'."),
    "vector_stores": ("vs_", "vector_store", "Vector store with id '{id}' not found."),
    "conversations": ("conv_", "conversation", "Conversation with id '{id}' not found."),
    "containers": ("cntr_", "container", "Container with id '{id}' not found."),
    "assistants": ("asst_", "assistant", "No assistant found with id '{id}'."),
    "threads": ("thread_", "thread", "No thread found with id '{id}'."),
    "evals": ("eval_", "eval", "Eval with id '{id}' not found."),
    "fine_tuning/jobs": ("ftjob-", "fine_tuning.job", "Could not find fine tune: {id}"),
    "responses": ("resp_", "response", "Response with id '{id}' not found."),
    "chat/completions": ("chatcmpl-", "chat.completion", "Chat completion with id '{id}' not found."),
}


@dataclass(slots=True)
class AccountObjects:
    """What one account has stored: documents by collection and id, and the bytes of files.

    `new_id(prefix)` returns a unique id.
    """

    new_id: Callable[[str], str]
    account: str
    project: str
    documents: dict[str, dict[str, Document]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)

    def of(self, collection: str) -> dict[str, Document]:
        return self.documents.setdefault(collection, {})

    # ---- responses and chats

    def refusal(self, parsed: ParsedRequest, made: Container[str] = ()) -> ErrorReply | None:
        """OpenAI's refusal if a request names an object that this account does not have.

        `made`: ids of responses and items that this WebSocket session has made, stored or not.
        """
        body = parsed.body
        previous = body.get("previous_response_id")
        if previous is not None and previous not in made and previous not in self.of("responses"):
            message = f"Previous response with id '{previous}' not found."
            return ErrorReply(400, message, code="previous_response_not_found", param="previous_response_id")
        conversation = _id_in(body.get("conversation"))
        if conversation and conversation not in self.of("conversations"):
            return _missing("conversations", conversation)
        for name, value in [*_ids_in(body), *_items_by_id(body.get("input"))]:
            if name in {"file_id", "file_ids"} and value not in self.of("files"):
                return _no_file(value, name, self.project)
            if name == "vector_store_ids" and value not in self.of("vector_stores"):
                return _missing("vector_stores", value)
            if name == "container" and value not in self.of("containers"):
                return _missing("containers", value)
            if (
                name == "item_reference"
                and value not in made
                and not any(value in r.get("_items", ()) for r in self.of("responses").values())
            ):
                return ErrorReply(404, f"Item with id '{value}' not found.", param="input")
            if name == "encrypted_content" and value.partition(".")[0] != f"gAAA{self.account}":
                message = (
                    f"The encrypted content {value[:8]}... could not be verified. Reason: Encrypted content "
                    "organization_id did not match the target organization."
                )
                return ErrorReply(400, message, code="invalid_encrypted_content")
        return None

    def store(self, turn: Turn, document: Document) -> None:
        """Store an answer for which `is_stored` is true."""
        kept = self.of("responses" if turn.parsed.shape is RESPONSES else "chat/completions")
        if len(kept) >= MOST_KEPT:
            del kept[next(iter(kept))]
        kept[turn.id] = document
        if turn.parsed.shape is RESPONSES:
            items = [item["id"] for item in document["output"]]
            kept[turn.id] = {**document, "_items": items, "_input": turn.parsed.body.get("input")}
            conversation = _id_in(turn.parsed.body.get("conversation"))
            if conversation:
                self.of(f"conversations/{conversation}/items").update({i["id"]: i for i in document["output"]})

    # ---- every other path

    def serve(self, request: Request) -> ObjectReply | ErrorReply | None:
        """The answer, None if the path is not about stored objects."""
        path = request.path
        two = "/".join(path[:2])
        collection = two if two in _COLLECTIONS else path[0] if path else ""
        if collection not in _COLLECTIONS:
            return None
        rest = path[collection.count("/") + 1 :]
        if not rest:
            if request.method == "POST" and collection not in {"responses", "chat/completions"}:
                return self._create(collection, request)
            return _list(self.of(collection), request) if request.method == "GET" else None
        if collection == "responses" and rest[0] in {"compact", "input_tokens"}:
            return None
        known = self.of(collection).get(rest[0])
        if known is None:
            return _missing(collection, rest[0])
        if len(rest) == 1:
            return self._one(collection, known, request)
        return self._below(collection, known, rest[1:], request)

    def _create(self, collection: str, request: Request) -> ObjectReply | ErrorReply:
        prefix, kind, _ = _COLLECTIONS[collection]
        fields = request.fields
        for name, value in _ids_in(fields):
            if name.endswith(("file_id", "file_ids", "_file")) and value not in self.of("files"):
                return _no_file(value, name, self.project)
        document: Document = {"id": self.new_id(prefix), "object": kind, "created_at": int(time.time())}
        if collection == "files":
            name, content = request.upload or ("file", b"")
            document |= self._file(document["id"], name, content, fields.get("purpose", "user_data"))
        elif collection == "uploads":
            document |= {"bytes": 0, "filename": "", "purpose": "user_data", "status": "pending", "expires_at": 2**31}
            document |= fields | {"_parts": {}}
        elif collection == "batches":
            document |= {"status": "validating", "errors": None, "output_file_id": None, "error_file_id": None}
            document |= {"request_counts": {"total": 0, "completed": 0, "failed": 0}, **fields}
            document["_done_at"] = time.monotonic() + BATCH_TAKES_S
        elif collection == "vector_stores":
            document |= {"name": fields.get("name"), "status": "completed", "usage_bytes": 0, "metadata": {}}
            document |= {"file_counts": {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}}
            for file_id in fields.get("file_ids") or ():
                self._attach(document, file_id)
        else:
            document |= {"metadata": {}, **{k: v for k, v in fields.items() if k not in {"items", "file_ids"}}}
            for item in fields.get("items") or ():
                self._item(document["id"], item)
        self.of(collection)[document["id"]] = document
        return _shown(document)

    def _one(self, collection: str, known: Document, request: Request) -> ObjectReply:
        object_id = known["id"]
        if request.method == "DELETE":
            del self.of(collection)[object_id]
            kind = "file" if collection == "files" else f"{known['object']}.deleted"
            return _shown({"id": object_id, "object": kind, "deleted": True})
        if request.method == "POST":
            known.update(request.fields)
        if collection == "batches":
            self._advance(known)
        return _shown(known)

    def _below(
        self, collection: str, known: Document, rest: tuple[str, ...], request: Request
    ) -> ObjectReply | ErrorReply | None:
        object_id, post = known["id"], request.method == "POST"
        if collection == "files" and rest == ("content",):
            return ObjectReply(self.contents[object_id], type="application/octet-stream")
        if collection == "uploads" and post:
            return self._upload(known, rest[0], request)
        if rest == ("cancel",):
            known["status"] = "cancelled"
            return _shown(known)
        if collection == "responses" and rest == ("input_items",):
            text = known["_input"]
            inputs = text if isinstance(text, list) else [{"type": "message", "role": "user", "content": text}]
            items = {f"msg_in{n}{object_id}": item for n, item in enumerate(inputs)}
            return _list({name: {**item, "id": name} for name, item in items.items()}, request)
        below = self.of("/".join((collection, object_id, rest[0])))
        if len(rest) == 1:
            if not post:
                return _list(below, request)
            if collection == "conversations":
                made = [self._item(object_id, item) for item in request.fields.get("items") or ()]
                return _shown(_page(made))
            if collection == "containers":
                return self._container_file(known, request)
            file_id = request.fields.get("file_id", "")
            if file_id not in self.of("files"):
                return _no_file(file_id, "file_id", self.project)
            return _shown(self._attach(known, file_id))
        found = below.get(rest[1])
        if found is None:
            return ErrorReply(404, f"No {rest[0].rstrip('s')} found with id '{rest[1]}'.")
        if rest[2:] == ("content",):
            return ObjectReply(self.contents.get(found["id"], b""), type="application/octet-stream")
        if request.method == "DELETE":
            del below[rest[1]]
            return _shown({"id": rest[1], "object": f"{collection}.deleted", "deleted": True})
        return _shown(found)

    def _file(self, file_id: str, name: str, content: bytes, purpose: str) -> Document:
        self.contents[file_id] = content
        document = {"id": file_id, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        return {**document, "filename": name, "purpose": purpose, "status": "processed"}

    def _upload(self, known: Document, what: str, request: Request) -> ObjectReply:
        if what == "parts":
            part_id = self.new_id("part_")
            known["_parts"][part_id] = request.upload[1] if request.upload else b""
            return _shown(
                {"id": part_id, "object": "upload.part", "created_at": int(time.time()), "upload_id": known["id"]}
            )
        if what == "complete":
            content = b"".join(known["_parts"].get(part, b"") for part in request.fields.get("part_ids", ()))
            file_id = self.new_id("file-")
            file = self._file(file_id, known["filename"], content, known["purpose"])
            self.of("files")[file_id] = file
            known.update(status="completed", file=file)
        else:
            known["status"] = "cancelled"
        return _shown(known)

    def _advance(self, batch: Document) -> None:
        """Complete a batch that is due: each line of its input is answered with an echo."""
        if batch["status"] not in {"validating", "in_progress"}:
            return
        if time.monotonic() < batch["_done_at"]:
            batch["status"] = "in_progress"
            return
        lines = [line for line in self.contents.get(batch["input_file_id"], b"").splitlines() if line.strip()]
        answers = []
        for line in lines:
            batched = msgspec.json.decode(line)
            answer = {"status_code": 200, "request_id": self.new_id("req_"), "body": {"echo": batched.get("body")}}
            answers.append(
                msgspec.json.encode({"custom_id": batched.get("custom_id"), "response": answer, "error": None})
            )
        output = self.new_id("file-")
        content = b"\n".join(answers)
        self.of("files")[output] = self._file(output, f"{batch['id']}_output.jsonl", content, "batch_output")
        counts = {"total": len(lines), "completed": len(lines), "failed": 0}
        batch.update(status="completed", output_file_id=output, request_counts=counts)

    def _attach(self, store: Document, file_id: str) -> Document:
        document = {"id": file_id, "object": "vector_store.file", "created_at": int(time.time()), "status": "completed"}
        document |= {"vector_store_id": store["id"], "usage_bytes": 0, "last_error": None}
        self.of(f"vector_stores/{store['id']}/files")[file_id] = document
        for count in ("completed", "total"):
            store["file_counts"][count] += 1
        return document

    def _item(self, conversation: str, item: Document) -> Document:
        document = {"id": self.new_id("msg_"), "type": "message", "status": "completed", **item}
        self.of(f"conversations/{conversation}/items")[document["id"]] = document
        return document

    def _container_file(self, container: Document, request: Request) -> ObjectReply | ErrorReply:
        file_id = request.fields.get("file_id")
        if file_id is not None and file_id not in self.of("files"):
            return _no_file(file_id, "file_id", self.project)
        name, content = request.upload or ("file", self.contents.get(file_id or "", b""))
        document: Document = {"id": self.new_id("cfile_"), "object": "container.file", "created_at": int(time.time())}
        document |= {
            "container_id": container["id"],
            "path": f"/mnt/data/{name}",
            "bytes": len(content),
            "source": "user",
        }
        self.contents[document["id"]] = content
        self.of(f"containers/{container['id']}/files")[document["id"]] = document
        return _shown(document)


def is_stored(parsed: ParsedRequest) -> bool:
    """Whether the answer is stored: responses unless `store` is false, chats if `store` is true."""
    store = parsed.body.get("store")
    return (parsed.shape is RESPONSES and store is not False) or (parsed.shape is CHAT and store is True)


def read(method: str, raw_path: str, content_type: str, body: bytes) -> Request:
    """Reads a request for stored objects. A body that is neither JSON nor a form has no fields."""
    path, _, query = raw_path.partition("?")
    fields: Document = {}
    upload = None
    if content_type.startswith("multipart/form-data"):
        head = f"Content-Type: {content_type}\r\n\r\n".encode()
        form = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        for part in form.iter_parts() if form.is_multipart() else ():
            name = str(part.get_param("name", header="content-disposition") or "")
            content = part.get_payload(decode=True)
            content = content if isinstance(content, bytes) else b""
            if part.get_filename() is not None:
                upload = str(part.get_filename()), content
            elif name in {"data", "file"}:
                upload = name, content
            else:
                fields[name] = content.decode(errors="replace")
    elif body:
        try:
            decoded = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = {}
        fields = decoded if isinstance(decoded, dict) else {}
    segments = tuple(part for part in unquote(path).removeprefix("/v1/").split("/") if part)
    return Request(method, segments, parse_qs(query), fields, upload)


def _list(documents: dict[str, Document], request: Request) -> ObjectReply:
    """The newest first, in pages."""
    rows = list(reversed(documents.values()))
    after = request.query.get("after", [""])[0]
    if after in documents:
        rows = rows[[row["id"] for row in rows].index(after) + 1 :]
    limit = int(request.query.get("limit", ["100"])[0])
    return _shown({**_page(rows[:limit]), "has_more": len(rows) > limit})


def _page(rows: list[Document]) -> Document:
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    data = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": False}


def _shown(document: Document) -> ObjectReply:
    return ObjectReply(pretty({name: value for name, value in document.items() if not name.startswith("_")}))


def _missing(collection: str, object_id: str) -> ErrorReply:
    code = "fine_tune_not_found" if collection == "fine_tuning/jobs" else None
    param = "id" if collection == "files" else None
    return ErrorReply(404, _COLLECTIONS[collection][2].format(id=object_id), code=code, param=param)


def _no_file(file_id: str, name: str, project: str) -> ErrorReply:
    message = f"Cannot find file {file_id}, or project {project} does not have access to it."
    return ErrorReply(400, message, param=name)


def _id_in(value: Any) -> str:
    """An id given as it is, or as {"id": ...}."""
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""


def _items_by_id(items: Any) -> list[tuple[str, str]]:
    """The items of an input that consist of an id, with or without a type: they stand for stored ones."""
    own = {"id", "type", "role", "status", "summary"}
    listed = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    bare = [item for item in listed if {name for name, member in item.items() if member} <= own]
    return [("item_reference", item["id"]) for item in bare if isinstance(item.get("id"), str)]


def _ids_in(value: Any) -> list[tuple[str, str]]:
    """(name, id) of each member, at any depth, that names a stored object."""
    found: list[tuple[str, str]] = []
    if isinstance(value, list):
        for element in value:
            found += _ids_in(element)
    elif isinstance(value, dict):
        if value.get("type") == "item_reference":
            found.append(("item_reference", value.get("id", "")))
        for name, member in value.items():
            if name == "container" and isinstance(member, str):
                found.append((name, member))
            elif name in {"file_id", "input_file_id", "training_file", "validation_file", "encrypted_content"}:
                found += [(name, member)] if isinstance(member, str) else []
            elif name in {"file_ids", "vector_store_ids"}:
                found += [(name, element) for element in member or ()]
            elif name != "metadata":
                found += _ids_in(member)
    return found
