"""Compares replies with an OpenAPI document, with the part of JSON Schema that such documents use.

An unknown keyword is an error, so that nothing counts as checked that is not.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Finding = tuple[str, str]  # place in the body, and difference from the document

WORDS = {"description", "example", "default", "title", "nullable"}
CHECKED = {"$ref", "allOf", "oneOf", "type", "enum", "format", "minimum"}
CHECKED |= {"properties", "required", "additionalProperties", "propertyNames", "items"}
TYPES: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "string": str,
    "array": list,
    "object": dict,
    "number": (int, float),
    "integer": int,
}
FORMATS: dict[str, Callable[[str], object]] = {"uuid": UUID, "date-time": datetime.fromisoformat}


class Document:
    """An OpenAPI 3.1 document.

    Args:
        document: decoded.

    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def findings(self, method: str, path: str, status: int, body: Any) -> list[Finding]:
        """Returns the differences between a reply and the document's route; `path` is its template."""
        operation = self._document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            return [("", "the route is not documented")]
        told = operation["responses"].get(str(status))
        if told is None:
            return [("", f"status {status} is not documented")]
        schema = told.get("content", {}).get("application/json", {}).get("schema")
        if status >= 400 and schema is None:
            schema = {"$ref": "#/components/schemas/ApiErrorResponse"}
        return [] if schema is None else sorted(set(self._differs(schema, body, "$")))

    def _differs(self, schema: dict[str, Any], value: Any, at: str) -> Iterator[Finding]:
        unknown = set(schema) - WORDS - CHECKED
        assert not unknown, f"{at}: the document uses {unknown}, which nothing here checks"
        if "$ref" in schema:
            yield from self._differs(self._resolved(schema["$ref"]), value, at)
        for part in schema.get("allOf", ()):
            yield from self._differs(part, value, at)
        if "oneOf" in schema:
            yield from self._differs_from_all(schema["oneOf"], value, at)
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds and not any(_is(value, kind) for kind in kinds):
            yield at, f"{_kind(value)} instead of {' or '.join(kinds)}"
            return
        yield from _of_atoms(schema, value, at)
        if isinstance(value, dict):
            yield from self._of_object(schema, value, at)
        if isinstance(value, list) and "items" in schema:
            for item in value:
                yield from self._differs(schema["items"], item, f"{at}[]")

    def _differs_from_all(self, parts: list[dict[str, Any]], value: Any, at: str) -> Iterator[Finding]:
        found = [list(self._differs(part, value, at)) for part in parts]
        if all(found):
            yield from min(found, key=len)

    def _of_object(self, schema: dict[str, Any], value: dict[str, Any], at: str) -> Iterator[Finding]:
        told, more = schema.get("properties", {}), schema.get("additionalProperties")
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{at}.{name}", "missing"
        for name, item in value.items():
            if name in told:
                yield from self._differs(told[name], item, f"{at}.{name}")
            elif isinstance(more, dict):
                yield from self._differs(more, item, f"{at}.*")
            elif told:
                yield f"{at}.{name}", "not documented"

    def _resolved(self, reference: str) -> dict[str, Any]:
        found: Any = self._document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found


def _of_atoms(schema: dict[str, Any], value: Any, at: str) -> Iterator[Finding]:
    if "enum" in schema and value not in schema["enum"]:
        yield at, f"{value!r} is none of the documented values"
    if "minimum" in schema and _is(value, "number") and value < schema["minimum"]:
        yield at, f"less than {schema['minimum']}"
    check = FORMATS.get(schema.get("format", ""))
    if check is not None and isinstance(value, str):
        try:
            check(re.sub(r"\.(\d{6})\d+", r".\1", value))  # Python has microseconds
        except ValueError:
            yield at, f"no {schema['format']}"


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])


def _kind(value: Any) -> str:
    return next(kind for kind in ("integer", *TYPES) if _is(value, kind))
