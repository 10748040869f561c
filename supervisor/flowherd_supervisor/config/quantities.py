"""Numbers as settings are written: counts, `auto`, and durations with or without a unit; it reads no settings."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(ms|s|m|h|)\s*", re.ASCII)


def _duration(value: object) -> object:
    """`60`, `60s`, `500ms` and `2m`, as the engine's own variables are written (protocol.md §7)."""
    _no_bool(value)
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError("should be seconds, or a number with ms, s, m or h such as 500ms or 2m")
    return float(found[1]) * _UNITS_S[found[2]]


def _count(value: object) -> object:
    _no_bool(value)
    return value


def _count_or_auto(value: object) -> object:
    return None if value == "auto" else _count(value)


def _no_bool(value: object) -> None:
    """`true` is 1 to a lax reader, and a mistake to everybody else."""
    if isinstance(value, bool):
        raise ValueError("should be a number")  # noqa: TRY004 - what pydantic turns into a complaint


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_duration)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_duration)]
Count = Annotated[int, BeforeValidator(_count)]
CountOrAuto = Annotated[int | None, BeforeValidator(_count_or_auto)]
