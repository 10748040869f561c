"""Filters of template expressions, and how values read inside text; they see one value and know no names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FILTERS", "UNDEFINED", "text"]


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Undefined()


def _default(value: Any, fallback: Any = "") -> Any:
    return fallback if value is UNDEFINED else value


def _coalesce(value: Any, fallback: Any) -> Any:
    return fallback if value is UNDEFINED or value is None else value


FILTERS: dict[str, Callable[..., Any]] = {
    "coalesce": _coalesce,
    "default": _default,
    "first": lambda value: value[0] if value else UNDEFINED,
    "float": float,
    "int": int,
    "join": lambda value, by="": by.join(text(item) for item in value),
    "last": lambda value: value[-1] if value else UNDEFINED,
    "length": len,
    "lower": lambda value: text(value).lower(),
    "tojson": lambda value: msgspec.json.encode(value).decode(),
    "trim": lambda value: text(value).strip(),
    "upper": lambda value: text(value).upper(),
}


def text(value: Any) -> str:
    """`value` as it reads inside a longer string."""
    match value:
        case str():
            return value
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()
