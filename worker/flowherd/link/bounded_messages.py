"""Makes the messages whose texts and lists may be of any length: they are cut so that each fits into one message."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.link.messages import BootFailed, Noted, Ready, Serves, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MESSAGE_CHARS, _REPORT_CHARS = 2_000, 8_000  # fits even when each character becomes a six-byte escape
_NOTE_CHARS = 500
_MOST_HAZARDS, _HAZARD_CHARS = 8, 200
_LISTED_BYTES = 48_000  # of names or ids in one message; more are left out


def boot_failed(code: int, message: str, report: str = "") -> BootFailed:
    """Returns a BootFailed whose texts fit into a message; keeps the end of the traceback."""
    return BootFailed(code, sendable(message[:_MESSAGE_CHARS]), sendable(report[-_REPORT_CHARS:]))


def ready(worker_type: str, activities: Mapping[str, str], hazards: Iterable[str] = ()) -> Ready:
    """Returns a Ready with as many activities as fit, and the first hazards."""
    named = {sendable(name): mode for name, mode in activities.items()}
    found = tuple(sendable(hazard[:_HAZARD_CHARS]) for hazard in islice(hazards, _MOST_HAZARDS))
    return Ready(sendable(worker_type), {name: named[name] for name in _as_many_as_fit(named)}, found)


def serves(worker_type: str, takes: Mapping[str, Iterable[str] | None]) -> Serves:
    """Returns a Serves with as many activities as fit."""
    room = _LISTED_BYTES
    kept: dict[str, tuple[str, ...] | None] = {}
    for name, taken in takes.items():
        listed = None if taken is None else tuple(map(sendable, sorted(taken)))
        room -= len(msgspec.json.encode({sendable(name): listed}))
        if room >= 0:
            kept[sendable(name)] = listed
    return Serves(sendable(worker_type), kept)


def stopped(released: int, undelivered: Iterable[str]) -> Stopped:
    """Returns a Stopped with as many undelivered activities as fit."""
    return Stopped(released, tuple(_as_many_as_fit(undelivered)))


def noted(at: float, level: str, event: str, fields: Mapping[str, Any]) -> Noted:
    """Returns a Noted that fits into a message: long texts are cut, and containers are replaced by their length."""
    return Noted(at, level, event, {name: _short(value) for name, value in fields.items()})


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value[:_NOTE_CHARS])
    if isinstance(value, int | float | None):
        return value
    return len(value) if hasattr(value, "__len__") else repr(value)


def sendable(text: str) -> str:
    """Replaces lone surrogates, as in undecodable file names, by question marks: JSON is sent as UTF-8."""
    return text.encode(errors="replace").decode()


def _as_many_as_fit(texts: Iterable[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        size += len(msgspec.json.encode(text)) + 16  # quotes, comma, colon and the mode
        if size > _LISTED_BYTES:
            return
        yield text
