"""Finds NaN and infinities of type Any, for which pydantic's JSON mode writes null."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, PlainSerializer, RootModel, WrapSerializer

if TYPE_CHECKING:
    from collections.abc import Iterable

Path = tuple["str | int", ...]

_encode = msgspec.json.Encoder().encode

# Schemas that pydantic writes by their declared type, so no number is lost; values of others are written by guessing.
_TYPED = frozenset(
    """model model-fields model-field definitions definition-ref default nullable list dict tuple str int float bool
    none date time datetime timedelta uuid decimal literal enum url""".split()  # noqa: SIM905  # shorter so
)
_ITEMS = {"list": "items_schema", "dict": "values_schema", "tuple": "items_schema"}


def may_lose_numbers(dumped: Any, kind: type[BaseModel]) -> bool:
    """True when a number may be lost: the model has values of undeclared type, and the dump has a null."""
    if not _is_loose(kind):
        return False
    try:
        return b"null" in _encode(dumped)
    except (UnicodeEncodeError, OverflowError, RecursionError):
        return True


def lost_number(dumped: Any, value: Any, path: Path) -> tuple[float, Path] | None:
    """Returns the first number that is not finite in `value` and null in `dumped`, with its path.

    A null that a user's serializer wrote is intended and does not count.
    """
    if dumped is None:
        return (value, path) if isinstance(value, float) and not math.isfinite(value) else None
    pairs: Iterable[tuple[str | int, Any, Any]] = ()
    if isinstance(dumped, dict):
        pairs = ((name, dumped[name], item) for name, item in _members(value) if name in dumped)
    elif isinstance(dumped, list):
        rows = value.root if isinstance(value, RootModel) else value
        if isinstance(rows, list | tuple | set | frozenset | deque):
            pairs = ((index, *both) for index, both in enumerate(zip(dumped, rows, strict=False)))
    for part, written, item in pairs:
        if written is None or isinstance(written, dict | list):
            found = lost_number(written, item, (*path, part))
            if found is not None:
                return found
    return None


@lru_cache(maxsize=256)
def _is_loose(kind: type[BaseModel]) -> bool:
    waiting: list[Any] = [kind.__pydantic_core_schema__]
    while waiting:
        match waiting.pop():
            case {"extra_behavior": "allow"} | {"extra_fields_behavior": "allow"}:
                return True
            case {"type": str() as name, **rest}:
                if name not in _TYPED or (name in _ITEMS and _ITEMS[name] not in rest):
                    return True
                waiting.extend(part for key, part in rest.items() if key not in {"default", "metadata"})
            case dict() as found:
                waiting.extend(found.values())
            case list() | tuple() as found:
                waiting.extend(found)
            case _:
                pass
    return False


def _members(value: Any) -> Iterable[tuple[str, Any]]:
    """Returns the members of `value` with the names they are written under, except those a user's serializer writes."""
    if isinstance(value, RootModel):
        value = value.root
    if isinstance(value, Mapping):
        return ((str(name), item) for name, item in value.items() if isinstance(name, str | int))
    if isinstance(value, BaseModel):
        names = _written_names(type(value))
        return ((alias, item) for name, item in value for alias in names.get(name, (name,)))
    if dataclasses.is_dataclass(value):
        return ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    return ()


@lru_cache(maxsize=256)
def _written_names(kind: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Returns the names each field may be written under; none for a field that a user's serializer writes."""
    own = kind.__pydantic_decorators__
    by_user = {name for found in own.field_serializers.values() for name in found.info.fields}
    names: dict[str, tuple[str, ...]] = {}
    for name, field in kind.model_fields.items():
        typed = any(isinstance(extra, PlainSerializer | WrapSerializer) for extra in field.metadata)
        if own.model_serializers or typed or not by_user.isdisjoint({name, "*"}):
            names[name] = ()
        else:
            names[name] = (name, field.serialization_alias or name)
    return names
