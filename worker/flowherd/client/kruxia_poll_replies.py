"""Decodes the activities in the reply to a poll, one by one where the reply has a flaw (protocol.md §4)."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from flowherd.activities_and_outcomes import Activity
from flowherd.client.engine_protocol import Batch, Undecodable
from flowherd.errors import ForeignReply

if TYPE_CHECKING:
    from collections.abc import Collection

_SHORTEST_LEASE_S, _LONGEST_LEASE_S = 1.0, 7 * 86_400.0
_PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")  # ids become parts of URL paths
_LIST = re.compile(rb'\s*\{\s*"activities"\s*:\s*\[')
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)  # a whole string, or one character
_MOST_CHARS = 200  # of a name in the log
_UNREADABLE = (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError)

log = structlog.stdlib.get_logger(__name__)


class _Item(msgspec.Struct):
    """An activity in the form the engine sends; replies in another form are decoded item by item."""

    activity_id: str
    workflow_id: str
    activity_key: str
    worker: str
    activity_name: str | None = None
    parameters: Any = None
    timeout_seconds: int | float | None = None
    settings: dict[str, Any] | None = None
    output_definitions: list[dict[str, Any]] | None = None
    signal_data: Any = None


class _Items(msgspec.Struct):
    activities: list[_Item]


_sound = msgspec.json.Decoder(_Items)


def _all_sound(body: bytes, worker_id: str) -> list[Activity] | None:
    """Decodes all activities of a valid reply at once; None when each item must be decoded on its own."""
    try:
        items = _sound.decode(body).activities
    except _UNREADABLE:
        return None
    if not all(_PLAIN_ID.match(item.activity_id) for item in items):  # msgspec's patterns fill caches
        return None
    return [
        Activity(
            activity_id=item.activity_id,
            workflow_id=item.workflow_id,
            key=item.activity_key,
            name=item.activity_name or "",
            worker_type=item.worker,
            worker_id=worker_id,
            parameters=item.parameters,
            timeout_s=_timeout_s(item.timeout_seconds, item),
            settings=item.settings or {},
            output_definitions=tuple(item.output_definitions or ()),
            signal_data=item.signal_data,
        )
        for item in items
    ]


def decode_batch(body: bytes, worker_id: str, undecoded: Collection[str] = frozenset()) -> Batch:
    """Decodes a poll reply; its `count` is ignored (faults.md E20).

    Args:
        body: the body of the reply.
        worker_id: the worker_id of the poll.
        undecoded: names of activities whose parameters stay encoded, as a part of `body`.

    Raises:
        ForeignReply: it is not a poll reply; activities it claimed stay claimed until their leases end (fact 2).

    """
    if not undecoded and (activities := _all_sound(body, worker_id)) is not None:
        return Batch(activities, [], body)
    try:
        items = _opened(body, undecoded) if undecoded else msgspec.json.decode(body)["activities"]
    except _UNREADABLE as error:
        pieces = _pieces(body)
        if pieces is None:
            reason = f"an unreadable poll reply of {len(body)} bytes ({type(error).__name__})"
            raise _not_a_poll_reply(reason) from None
        decoded = [_decode_piece(piece, worker_id) for piece in pieces if piece.strip()]
    else:
        if not isinstance(items, list):
            raise _not_a_poll_reply("a poll reply whose activities are not a list")
        decoded = [_decode_item(item, worker_id) for item in items]
    if nameless := decoded.count(None):
        log.error("activities_without_id", count=nameless, worker_id=worker_id)
    return Batch(
        activities=[item for item in decoded if isinstance(item, Activity)],
        undecodable=[item for item in decoded if isinstance(item, Undecodable)],
        reply=body,
    )


def _not_a_poll_reply(reason: str) -> ForeignReply:
    error = ForeignReply(reason)
    error.is_of_the_call = False  # it speaks of all calls
    return error


class _Reply(msgspec.Struct):
    activities: list[msgspec.Raw]


class _Named(msgspec.Struct):
    activity_name: Any = None


def _opened(body: bytes, undecoded: Collection[str]) -> list[Any]:
    """Decodes the items of a reply, except the parameters of activities in `undecoded`."""
    items: list[Any] = []
    for raw in msgspec.json.decode(body, type=_Reply).activities:
        if msgspec.json.decode(raw, type=_Named).activity_name in undecoded:
            members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            kept = members.pop("parameters", None)
            items.append({name: msgspec.json.decode(value) for name, value in members.items()})
            items[-1]["parameters"] = kept
        else:
            items.append(msgspec.json.decode(raw))
    return items


def _pieces(body: bytes) -> list[bytes] | None:
    """Splits the reply into the bytes of its items, when it cannot be decoded whole; None when it is not balanced.

    One number out of range or one half of a surrogate pair must not cost the batch (protocol.md R4).
    """
    head = _LIST.match(body)
    if head is None:
        return None
    pieces, begin, open_ = [], head.end(), bytearray()
    for mark in _MARK.finditer(body, begin):
        sign = mark.group()
        if sign in {b"[", b"{"}:
            open_ += b"]" if sign == b"[" else b"}"
        elif sign == b'"':
            return None  # a string without an end
        elif open_:
            if sign in {b"]", b"}"} and open_.pop() != sign[0]:
                return None
        elif sign in {b",", b"]"}:
            pieces.append(body[begin : mark.start()])
            begin = mark.end()
            if sign == b"]":
                return pieces
    return None


def _decode_piece(piece: bytes, worker_id: str) -> Activity | Undecodable | None:
    """Decodes one item of a reply that cannot be decoded whole."""
    try:
        return _decode_item(msgspec.json.decode(piece), worker_id)
    except _UNREADABLE as error:
        reason = f"its JSON cannot be read ({type(error).__name__})"
    try:  # more lenient but slower; used only for the id and names
        item = json.loads(piece.decode(errors="replace"), strict=False, parse_int=str, parse_float=str)
    except _UNREADABLE:
        return None
    activity_id = _id_of(item)
    return None if activity_id is None else _undecodable(item, activity_id, worker_id, reason)


def _undecodable(item: Any, activity_id: str, worker_id: str, reason: str) -> Undecodable:
    """Returns an undecodable item with those of its names that can be read."""
    names = (item.get(name) for name in ("workflow_id", "activity_key", "activity_name"))
    texts = (name[:_MOST_CHARS] if isinstance(name, str) else "" for name in names)
    return Undecodable(activity_id, worker_id, reason, *texts)


def _id_of(item: Any) -> str | None:
    """Returns the id of an item, None when it has no valid one and so cannot be reported to the engine."""
    activity_id = item.get("activity_id") if isinstance(item, dict) else None
    return activity_id if isinstance(activity_id, str) and _PLAIN_ID.match(activity_id) else None


def _decode_item(item: Any, worker_id: str) -> Activity | Undecodable | None:
    """Decodes one item; None when its id is not readable, so that it cannot be reported to the engine."""
    activity_id = _id_of(item)
    if activity_id is None:
        return None
    texts = [item.get(name) for name in ("workflow_id", "activity_key", "worker")]
    if not all(isinstance(text, str) for text in texts):
        reason = "workflow_id, activity_key or worker is missing or not a string"
        return _undecodable(item, activity_id, worker_id, reason)
    name = item.get("activity_name") or ""
    if not isinstance(name, str):
        return _undecodable(item, activity_id, worker_id, "activity_name is not a string")
    settings = item.get("settings")
    outputs = item.get("output_definitions")
    return Activity(
        activity_id=activity_id,
        workflow_id=texts[0],
        key=texts[1],
        name=name,
        worker_type=texts[2],
        worker_id=worker_id,
        parameters=item.get("parameters"),
        timeout_s=_timeout_s(item.get("timeout_seconds"), item),
        settings=settings if isinstance(settings, dict) else {},
        output_definitions=tuple(o for o in outputs if isinstance(o, dict))
        if isinstance(outputs, list)
        else (),
        signal_data=item.get("signal_data"),
    )


def _ids(item: _Item | dict[str, Any]) -> dict[str, Any]:
    """Returns the names of an activity for a log line."""
    known = item if isinstance(item, dict) else msgspec.structs.asdict(item)
    names = ("workflow_id", "activity_id", "activity_key")
    return {"name": known.get("activity_name") or "", **{name: known[name] for name in names}}


def _timeout_s(value: Any, item: _Item | dict[str, Any]) -> float | None:
    """Returns `timeout_seconds` clamped to 1 s … 7 days; None when absent or not a number (faults.md E23)."""
    if value is None:
        return None
    seconds = math.nan
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = float(value)
    clamped = None if math.isnan(seconds) else min(max(seconds, _SHORTEST_LEASE_S), _LONGEST_LEASE_S)
    if clamped != seconds:
        log.warning("timeout_out_of_range", taken_as_s=clamped, **_ids(item))
    return clamped
