"""The admin API's OpenAPI 3.1 document, generated from the table of routes and the types of its bodies."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from quotapool.admin.routes import ERROR_CODES, GENERAL_ERRORS, PREFIX, ROUTES, Route
from quotapool.shapes.general import Error

_REF: Final = "#/components/schemas/{name}"


def document(version: str) -> dict[str, Any]:
    """The whole document; `version` is the proxy's."""
    types = {shape for route in ROUTES for shape in (route.body, route.answer) if shape is not None} | {Error}
    ordered = sorted(types, key=lambda shape: shape.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quotapool admin API",
            "version": version,
            "description": "For operators of the pool: docs/admin-api.md.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"adminToken": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.name, "summary": route.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    parameters += _query(route.query) if route.query else []
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        needed = any(field.required for field in msgspec.structs.fields(route.body))
        operation["requestBody"] = {"required": needed, "content": _json(route.body)}
    operation["responses"] = {
        str(route.status): {"description": _first_line(route.answer), "content": _json(route.answer)}
    }
    for code in (*GENERAL_ERRORS, *route.errors):
        status, meaning = ERROR_CODES[code]
        found = operation["responses"].setdefault(str(status), {"description": "", "content": _json(Error)})
        found["description"] = f"{found['description']} {code}: {meaning}".strip()
    return operation


def _query(shape: type) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(shape)
    properties = schema["$defs"][shape.__name__]["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": value} for name, value in properties.items()]


def _json(shape: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(name=shape.__name__)}}}


def _first_line(shape: type) -> str:
    return (shape.__doc__ or "").strip().partition("\n")[0] or shape.__name__
