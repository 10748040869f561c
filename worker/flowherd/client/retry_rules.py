"""Computes the engine's next attempt of a failed activity from its settings (protocol.md §3.1, §3.2). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

_BASE_S, _FACTOR, _MOST_S = 2.0, 2.0, 300.0


@dataclass(frozen=True, slots=True)
class NextTry:
    """The engine's next attempt after a retryable failure.

    Attributes:
        is_last: True when the settings allow no other attempt.
        after_s: seconds until the engine hands the activity out again; None when there is no other attempt.

    """

    is_last: bool
    after_s: float | None


def next_try(settings: Mapping[str, Any], attempt: int) -> NextTry:
    """Reads `settings.retry`; invalid values count as absent.

    Args:
        settings: the activity's settings.
        attempt: the number of the attempt that failed, from 1. An uncounted attempt makes it too low; then `is_last`
            may be False for the last one, and `after_s` too short.

    """
    retry = settings.get("retry")
    if isinstance(retry, Mapping) and attempt >= max(1.0, _number(retry, "max_attempts", 1.0)):
        return NextTry(is_last=True, after_s=None)
    rules = retry if isinstance(retry, Mapping) else {}
    base_s, most_s = _number(rules, "base_seconds", _BASE_S), _number(rules, "max_seconds", _MOST_S)
    if rules.get("strategy") == "fixed":
        return NextTry(is_last=False, after_s=min(base_s, most_s))
    try:
        after_s = base_s * _number(rules, "factor", _FACTOR) ** (attempt - 1)
    except OverflowError:
        after_s = most_s
    return NextTry(is_last=False, after_s=float(int(max(0.0, min(after_s, most_s)))))


def _number(rules: Mapping[str, Any], name: str, default: float) -> float:
    value = rules.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    try:
        number = float(value)
    except OverflowError:
        return default
    return number if isfinite(number) and number >= 0 else default
