"""All messages between the supervisor and its children: one JSON object each, at most 64 KiB."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from flowherd.end_cause import Cause  # noqa: TC001 - msgspec reads annotations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")
MAX_BYTES = 64 * 1024
_MESSAGE_CHARS, _REPORT_CHARS = 2_000, 8_000  # fits even when each character becomes a six-byte escape
_NOTE_CHARS = 500
_MOST_HAZARDS, _HAZARD_CHARS = 8, 200
_LISTED_BYTES = 48_000  # of names or ids in one message; more are left out


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=True):
    """A message from one process to another; the class name is its type."""


# Up: from a child to the supervisor


class Ready(Message, frozen=True):
    """The child is ready; a worker lists its activities with the place where each runs.

    A zygote lists them too, with the hazards it has found for a fork.
    """

    worker_type: str = ""
    activities: dict[str, str] = {}
    hazards: tuple[str, ...] = ()


class Serves(Message, frozen=True):
    """Follows the Ready of a process that has imported the app: the parameters of each activity, None for any.

    The supervisor forwards it to the keeper.
    """

    worker_type: str
    takes: dict[str, tuple[str, ...] | None]


class BootFailed(Message, frozen=True):
    """The child cannot start; `report` is the traceback, `code` the requested exit code."""

    code: int
    message: str
    report: str = ""


class Stopped(Message, frozen=True):
    """A worker's last message: the number of requeued activities, and the ids of those with undelivered results."""

    released: int
    undelivered: tuple[str, ...] = ()


class CredentialsRefused(Message, frozen=True):
    """The keeper's token requests were refused for the whole grace, and no token was ever granted."""

    detail: str


class Asked(Message, frozen=True):
    """The keeper received `scale`, `reload`, `quiet`, `resume`, `drain` or `stacks` on its admin socket."""

    order: str
    processes: int = 0


class NeedIsolate(Message, frozen=True):
    """A worker requests an isolate; sent with the descriptors for its channel, stdout, stderr and lifeline."""

    key: int


class KillIsolate(Message, frozen=True):
    """A worker requests that its isolate's process group be killed."""

    key: int


class Forked(Message, frozen=True):
    """The zygote's intermediate process reports a new process, before that one can have ended."""

    index: int
    incarnation: int
    pid: int
    key: int = 0


class ForkFailed(Message, frozen=True):
    """The zygote could not fork a process."""

    index: int
    incarnation: int
    reason: str
    key: int = 0


# Down: from the supervisor to a child


class SetSlots(Message, frozen=True):
    """Run at most `limit` activities; answer by storing `n` in the segment."""

    limit: int
    n: int


class Quiet(Message, frozen=True):
    """Stop polling; all other work goes on. The answer to a worker's Ready while polling is paused."""


class Resume(Message, frozen=True):
    """Poll; the answer to a worker's Ready, and the end of Quiet."""


class Drain(Message, frozen=True):
    """Stop polling, finish within `within_s` seconds, requeue the rest, exit.

    With `others_go_on` the host does not stop: others adopt what has not begun by then.
    """

    within_s: float
    others_go_on: bool = False


class Release(Message, frozen=True):
    """Requeue everything within `within_s` seconds and exit."""

    within_s: float


class DumpStacks(Message, frozen=True):
    """Log the stack of every thread and task."""


class IsolateStarted(Message, frozen=True):
    """To a worker: its isolate exists."""

    key: int
    pid: int


class IsolateEnded(Message, frozen=True):
    """To a worker: its isolate has ended with this annotated wait status, or could not be started for `reason`."""

    key: int
    status: int
    reason: str = ""


class Fork(Message, frozen=True):
    """To the zygote: fork a worker, or an isolate of that worker when `key` is not 0.

    A process gets one segment for each of its workers, which are threads when there are several.

    Sent with descriptors: for a worker its link and the file for its last messages, for an isolate its channel, stdout,
    stderr, lifeline and the file for its last messages.
    """

    index: int
    incarnation: int
    segments: tuple[int, ...]
    limit: int
    processes: int
    key: int = 0


class WatchChild(Message, frozen=True):
    """To the keeper: sent with the pidfd of the process in `segment`."""

    segment: int
    pid: int


class WatchIsolate(Message, frozen=True):
    """To the keeper: sent with the pidfd of an isolate."""

    pid: int


class IsolateReaped(Message, frozen=True):
    """To the keeper: an isolate and its process group have ended."""

    pid: int


class SupervisorState(Message, frozen=True):
    """To the keeper, for `status`: the supervisor's state.

    `threads`: True when all workers share one process. `configured`: the number of processes in the settings; `wanted`
    is the number after scaling.
    """

    state: str
    wanted: int
    total_slots: int
    restarts: dict[int, int]
    causes: dict[int, dict[Cause, int]] = {}
    polling: bool = True
    most: int = 0
    threads: bool = False
    configured: int = 0


class Noted(Message, frozen=True):
    """To the keeper, for its event stream: a line of the supervisor's log. `at` is in seconds since 1970."""

    at: float
    level: str
    event: str
    fields: dict[str, Any]


class Finish(Message, frozen=True):
    """To the keeper: all workers have ended; settle the remaining records within `within_s` seconds and exit."""

    within_s: float


FromWorker = NeedIsolate | KillIsolate
FromZygote = Forked | ForkFailed
Upward = Ready | Serves | BootFailed | Stopped | CredentialsRefused | Asked | FromWorker | FromZygote
ToWorker = SetSlots | DumpStacks | Quiet | Resume | Drain | Release | IsolateStarted | IsolateEnded
ToKeeper = WatchChild | WatchIsolate | IsolateReaped | SupervisorState | Serves | Noted | Finish
Downward = ToWorker | Fork | ToKeeper

_encoder = msgspec.json.Encoder()
_upward: msgspec.json.Decoder[Upward] = msgspec.json.Decoder(Upward)
_downward: msgspec.json.Decoder[Downward] = msgspec.json.Decoder(Downward)


def encode_any(message: Message) -> bytes:
    """Encodes one message of any length; raises msgspec's exceptions for values that are not JSON."""
    return _encoder.encode(message)


def encode(message: Message) -> bytes:
    """Encodes one message for a link."""
    data = _encoder.encode(message)
    assert len(data) <= MAX_BYTES, type(message)
    return data


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
        room -= len(_encoder.encode({sendable(name): listed}))
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
        size += len(_encoder.encode(text)) + 16  # quotes, comma, colon and the mode
        if size > _LISTED_BYTES:
            return
        yield text


def decode(decoder: msgspec.json.Decoder[T], data: bytes | bytearray) -> T:
    """Decodes a message; raises msgspec.DecodeError for any invalid input."""
    try:
        return decoder.decode(data)
    except (
        UnicodeDecodeError,
        RecursionError,
    ) as error:  # a broken type name, or too deep nesting
        raise msgspec.DecodeError(str(error)) from None


def decode_upward(data: bytes) -> Upward:
    """Decodes a child's message; raises msgspec.DecodeError for any invalid input."""
    return decode(_upward, data)


def decode_downward(data: bytes) -> Downward:
    """Decodes the supervisor's message; raises msgspec.DecodeError for any invalid input."""
    return decode(_downward, data)
