"""How a key's requests reach an upstream of its own: Azure OpenAI, or a server that speaks OpenAI's API.

The client's path stays as it is behind that upstream's prefix; only the query, the credential's header, and the model's
name in a JSON body may change. What upstream answers is not translated back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from quotapool.openai.head import Header
from quotapool.openai.jsontext import BROKEN, set_member


def bearer(secret: str) -> Header:
    """OpenAI's own header for a secret."""
    return b"Authorization", f"Bearer {secret}".encode()


@dataclass(frozen=True, slots=True)
class Route:
    """`base` is what stands before `/v1`. `header`: bearer or api-key. `models`: clients' names to upstream's."""

    base: str
    header: str = "bearer"
    query: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    def credential(self, secret: str) -> Header:
        """The header that carries the secret."""
        return (b"api-key", secret.encode()) if self.header == "api-key" else bearer(secret)

    def target(self, target: str) -> str:
        """The request's target with this upstream's parameters, but for those that the client gave itself."""
        path, _, query = target.partition("?")
        given = {pair.partition("=")[0] for pair in query.split("&")}
        pairs = [f"{name}={quote(value, safe='')}" for name, value in self.query.items() if name not in given]
        return f"{path}?{'&'.join([query] * bool(query) + pairs)}" if pairs else target

    def body(self, body: bytes, model: str) -> bytes:
        """A JSON body with upstream's name of the model; all other bytes stay as they are."""
        name = self.models.get(model, model)
        if name == model or not body:
            return body
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        try:
            return set_member(body, "model", f'"{quoted}"'.encode())
        except BROKEN:
            return body

    def serves(self, model: str, *, renamable: bool) -> bool:
        """Whether a request for this model may come here. `renamable`: its body is held, so its model can change."""
        if not self.models or not model:
            return True
        name = self.models.get(model)
        return name is not None and (renamable or name == model)
