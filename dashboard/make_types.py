"""Prints the admin API's shapes as TypeScript types: `python dashboard/make_types.py > dashboard/src/shapes.ts`.

From the same msgspec types that validate requests and make up /admin/openapi.json; CI fails if the file differs.
"""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType
from typing import Any

import msgspec
from quotapool.reports import explanation
from quotapool.shapes import advice as advice_shapes
from quotapool.shapes import cache as cache_shapes
from quotapool.shapes import clients as client_shapes
from quotapool.shapes import general as shapes
from quotapool.shapes import logins as login_shapes
from quotapool.shapes import now as now_shapes
from quotapool.shapes import requests as request_shapes
from quotapool.shapes import work as work_shapes

MODULES = (
    shapes,
    client_shapes,
    request_shapes,
    explanation,
    now_shapes,
    cache_shapes,
    work_shapes,
    login_shapes,
    advice_shapes,
)
PREFIX = "#/components/schemas/"


def types_of(module: ModuleType) -> list[type]:
    found = (value for _, value in inspect.getmembers(module, inspect.isclass))
    return [one for one in found if issubclass(one, msgspec.Struct) and one.__module__ == module.__name__]


def typed(schema: dict[str, Any]) -> str:
    """A JSON schema as a TypeScript type."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(PREFIX)
    if "enum" in schema:
        return " | ".join("null" if value is None else f'"{value}"' for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(typed(one) for one in schema["anyOf"]))
    match schema.get("type"):
        case "string":
            return "string"
        case "integer" | "number":
            return "number"
        case "boolean":
            return "boolean"
        case "null":
            return "null"
        case "array":
            item = typed(schema["items"]) if isinstance(schema.get("items"), dict) else "unknown"
            return f"({item})[]" if "|" in item else f"{item}[]"
        case "object" if "properties" in schema:
            return "object"
        case "object":
            values = schema.get("additionalProperties")
            return f"Record<string, {typed(values) if isinstance(values, dict) else 'unknown'}>"
    return "unknown"


def declaration(name: str, schema: dict[str, Any]) -> str:
    """What may be left out has a question mark."""
    about = re.sub(r"\s+", " ", schema.get("description", "")).strip()
    head = f"/** {about} */\n" if about else ""
    required = set(schema.get("required", ()))
    lines = []
    for field, of in schema.get("properties", {}).items():
        mark = "" if field in required else "?"
        shown = field if field.isidentifier() else f'"{field}"'
        lines.append(f"  {shown}{mark}: {typed(of)};")
    return f"{head}export type {name} = {{\n" + "\n".join(lines) + "\n};\n"


def main() -> None:
    names = sorted({one for module in MODULES for one in types_of(module)}, key=lambda one: one.__name__)
    _, components = msgspec.json.schema_components(names, ref_template=PREFIX + "{name}")
    sys.stdout.write("// Made by dashboard/make_types.py from the types of the admin API. Do not edit.\n\n")
    structs = {name: schema for name, schema in components.items() if "properties" in schema}
    sys.stdout.write("\n".join(declaration(name, schema) for name, schema in sorted(structs.items())))


if __name__ == "__main__":
    main()
