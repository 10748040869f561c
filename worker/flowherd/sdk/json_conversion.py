"""Converts a handler's values to plain JSON values, or names the path of a value that cannot be converted."""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import math
import re
import uuid
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from flowherd.errors import InvalidOutput
from flowherd.sdk.error_texts import describe_exception
from flowherd.sdk.nan_check import Path, lost_number, may_lose_numbers
from flowherd.sdk.plain_json_check import MAX_DEPTH, MAX_INT, MAX_NODES, MIN_INT, too_many

_WRITTEN_BY_PYDANTIC = (
    dt.date,
    dt.time,
    dt.timedelta,
    Decimal,
    uuid.UUID,
    PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
)
_ARRAY_LIBRARIES = frozenset({"numpy", "pandas"})
_BARE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")


def json_path(path: Path) -> str:
    """Writes a path as `$.rows[0].price`; unusual keys are quoted, long ones cut."""
    parts = ["$"]
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            key = _BAD_TEXT.sub("\ufffd", part[:64])
            parts.append(f".{key}" if _BARE_KEY.fullmatch(key) else f"[{key!r}]")
    return "".join(parts)


class Converter:
    """Copies one output to plain JSON values, depth first."""

    __slots__ = ("_nodes", "_open")

    def __init__(self) -> None:
        self._nodes = 0
        self._open: set[int] = set()

    def convert(self, value: Any, path: Path = ()) -> Any:
        """Returns a plain JSON value; InvalidOutput names the path and, where there is one, the conversion to use."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise too_many()
        kind = type(value)
        if kind is str:
            return _checked_text(value, path)
        if kind is bool or value is None:
            return value
        if kind is int:
            return _checked_int(value, path)
        if kind is float:
            return _checked_float(value, path)
        if kind.__module__.partition(".")[0] in _ARRAY_LIBRARIES:
            raise _array_library(value, path)
        if isinstance(value, type):
            raise InvalidOutput(
                f"{json_path(path)} is the class {value.__qualname__}, not JSON: send an instance, or send its name"
            )
        if isinstance(value, Mapping | list | tuple | BaseModel) or dataclasses.is_dataclass(value):
            return self._container(value, path)
        return self._converted(value, path)

    def _container(self, value: Any, path: Path) -> Any:
        if id(value) in self._open:
            raise InvalidOutput(f"{json_path(path)} contains itself")
        if len(path) >= MAX_DEPTH:
            raise InvalidOutput(f"{json_path(path[:8])}… is nested deeper than 120 levels")
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {self._key(key, path): self.convert(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [self.convert(item, (*path, index)) for index, item in enumerate(value)]
            return self.convert(self.fields_of(value, path), path)
        except (InvalidOutput, MemoryError):
            raise
        except Exception as exc:  # raised by user code, such as a Mapping's methods
            raise _unwritable(path, exc) from exc
        finally:
            self._open.discard(id(value))

    def fields_of(self, value: Any, path: Path) -> Any:
        """Returns the fields of a model, as its own JSON mode writes them, or of a dataclass.

        Raises:
            InvalidOutput: names the path of the field that cannot be written.

        """
        if isinstance(value, BaseModel):
            try:
                return _dumped_model(value, path)
            except (InvalidOutput, MemoryError):
                raise
            except Exception as exc:
                self._find_unwritable(value, path)
                raise _unwritable(path, exc) from exc
        fields = {}
        for field in dataclasses.fields(value):
            try:
                fields[field.name] = getattr(value, field.name)
            except Exception as exc:
                raise _unwritable((*path, field.name), exc) from exc
        return fields

    def _find_unwritable(self, model: BaseModel, path: Path) -> None:
        """Raises InvalidOutput for the first field, at any depth, that pydantic cannot write on its own."""
        kind = type(model)
        if kind.__pydantic_decorators__.model_serializers:
            return
        if isinstance(model, RootModel):
            self.convert(model.root, path)
            return
        for name in (*kind.model_fields, *(model.model_extra or ()), *kind.model_computed_fields):
            try:
                model.model_dump(mode="json", warnings=False, include={name})
            except Exception as exc:
                if name not in kind.model_computed_fields:
                    self.convert(getattr(model, name), (*path, name))
                raise _unwritable((*path, name), exc) from exc

    def _key(self, key: Any, path: Path) -> str:
        if not isinstance(key, str):
            raise InvalidOutput(f"{json_path(path)} has a key of type {type(key).__name__}: use str(key)")
        return _checked_text(str.__str__(key), (*path, key))

    def _converted(self, value: Any, path: Path) -> Any:
        if isinstance(value, Enum):
            return self.convert(value.value, path)
        if isinstance(value, str):
            return _checked_text(str.__str__(value), path)
        if isinstance(value, int):
            return _checked_int(int(value), path)
        if isinstance(value, float):
            return _checked_float(float(value), path)
        if isinstance(value, _WRITTEN_BY_PYDANTIC):
            return _checked_text(str(to_jsonable_python(value)), path)
        raise _unsendable(value, path)


def _dumped_model(model: BaseModel, path: Path) -> Any:
    """Returns the fields as the model's JSON mode writes them; InvalidOutput for a NaN or infinity it wrote as null."""
    dumped = model.model_dump(mode="json", warnings=False)
    if may_lose_numbers(dumped, type(model)) and (lost := lost_number(dumped, model, path)) is not None:
        _checked_float(*lost)
    return dumped


def _checked_text(value: str, path: Path) -> str:
    if bad := _BAD_TEXT.search(value):
        what = "a NUL character" if bad.group() == "\0" else "half of a surrogate pair"
        raise InvalidOutput(f"{json_path(path)} holds {what}, which the engine cannot store")
    return value


def _checked_int(value: int, path: Path) -> int:
    if not MIN_INT <= value <= MAX_INT:
        raise InvalidOutput(f"{json_path(path)} is an integer of more than 64 bits: send str(x)")
    return value


def _checked_float(value: float, path: Path) -> float:
    if not math.isfinite(value):
        raise InvalidOutput(f"{json_path(path)} is {value}: JSON has no such number, send None or a string")
    return value


def _array_library(value: Any, path: Path) -> InvalidOutput:
    """Returns the error with the fitting conversion, chosen by names because flowherd imports neither library."""
    kind = type(value)
    if hasattr(value, "isoformat"):
        remedy = ".isoformat()"
    elif hasattr(value, "to_dict"):
        remedy = '.to_dict(orient="records")' if hasattr(value, "columns") else ".to_dict()"
    elif getattr(value, "ndim", 0):
        remedy = ".tolist()"
    elif kind.__name__.startswith("bool"):
        remedy = "bool(x)"
    elif kind.__name__.startswith(("int", "uint", "longlong", "ulonglong")):
        remedy = "int(x)"
    elif kind.__name__.startswith(("float", "longdouble")):
        remedy = "float(x)"
    elif kind.__name__.startswith("NA"):
        remedy = "None"
    else:
        remedy = ".tolist()" if hasattr(value, "tolist") else "str(x)"
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return InvalidOutput(f"{json_path(path)} is a {name}, not JSON: convert it with {remedy}")


def _unwritable(path: Path, exc: Exception) -> InvalidOutput:
    return InvalidOutput(f"{json_path(path)} cannot be written: {describe_exception(exc)}")


def _unsendable(value: Any, path: Path) -> InvalidOutput:
    match value:
        case bytes() | bytearray() | memoryview():
            remedy = "convert it with base64.b64encode(x).decode(), or upload a file"
        case set() | frozenset():
            remedy = "convert it with sorted(x)"
        case complex():
            remedy = "convert it with [x.real, x.imag]"
        case _:
            remedy = "return JSON values, a pydantic model or a dataclass"
    return InvalidOutput(f"{json_path(path)} is a {type(value).__qualname__}, not JSON: {remedy}")
