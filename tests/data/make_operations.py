"""Lists every operation of the installed OpenAI SDK as `METHOD /path`: run it when a new SDK is out.

    python tests/data/make_operations.py > tests/data/operations.txt

The SDK has no list of its own; each method of its resources ends in one call such as
`self._post(path_template("/batches/{batch_id}/cancel", ...))`, which is read from the source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import openai

_METHODS = {
    "_get": "GET",
    "_get_api_list": "GET",
    "_post": "POST",
    "_put": "PUT",
    "_patch": "PATCH",
    "_delete": "DELETE",
}
_MORE = [  # WebSocket handshakes, which the SDK opens without these methods
    ("GET", "/realtime"),
    ("GET", "/realtime/translations"),
    ("GET", "/responses"),
    ("GET", "/live/sessions"),
    ("GET", "/live/sessions/{session_id}/attach"),
    ("GET", "/live/sessions/{session_id}/fork"),
]


def _template(node: ast.expr) -> str | None:
    """The path that an argument spells: a text, an f-string, or `path_template(text, ...)`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part).strip("{}") + "}"
            for part in node.values
        )
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("path_template"):
        return _template(node.args[0])
    return None


def operations() -> Iterator[tuple[str, str]]:
    """(method, path template as the SDK writes it, beginning after /v1)."""
    for file in sorted((Path(openai.__file__).parent / "resources").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            method = _METHODS.get(node.func.attr)
            if method is None:
                continue
            said = next((k.value for k in node.keywords if k.arg == "method"), None)
            if isinstance(said, ast.Constant):  # a list that is asked for by POST
                method = str(said.value).upper()
            path = next((k.value for k in node.keywords if k.arg == "path"), node.args[0] if node.args else None)
            found = _template(path) if path is not None else None
            if found is None:
                raise SystemExit(f"{file.name}:{node.lineno}: a path that cannot be read: {ast.unparse(node)[:120]}")
            yield method, found.partition("?")[0]


def listing() -> list[str]:
    """The lines of operations.txt."""
    found = sorted({*operations(), *_MORE}, key=lambda pair: (pair[1], pair[0]))
    return [f"# openai {version('openai')}", *(f"{method} {path}" for method, path in found)]


if __name__ == "__main__":
    print("\n".join(listing()))
