"""Reads definitions with the embedded engine's parser, which is part of the extra `engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read_definition(text: bytes) -> Mapping[str, Any] | None:
    """Returns a YAML or JSON definition as written; None if it is none, or without the extra `engine`."""
    try:
        from flowherd_engine.definition_schema import Unreadable, load  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None
    try:
        document = load(text.decode())
    except (Unreadable, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None


def unknown_keys(document: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields the place of each key that the parser drops, the key, and the keys that it knows there."""
    from flowherd_engine import definition_schema  # noqa: PLC0415 - as above

    yield from definition_schema.unknown_keys(document)
