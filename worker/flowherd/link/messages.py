"""All messages between the supervisor and its children: one JSON object each, at most 64 KiB; no I/O."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")
MAX_BYTES = 64 * 1024
_MESSAGE_CHARS, _REPORT_CHARS = 2_000, 8_000  # fits even when each takes the six bytes of an escape
_NOTE_CHARS = 500
_MOST_HAZARDS, _HAZARD_CHARS = 8, 200
_LISTED_BYTES = 48_000  # of names or ids in one message; what is more is left out


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=True):
    """A message from one process to another; the class name is its type."""


# Up: from a child to the supervisor


class Ready(Message, frozen=True):
    """The child can do its work; a worker says what it serves: activity names with how each runs.

    A zygote says so too, and what it has found that does not survive a fork.
    """

    worker_type: str = ""
    activities: dict[str, str] = {}
    hazards: tuple[str, ...] = ()


class Serves(Message, frozen=True):
    """Follows a Ready of the process that imported the app: the parameters of each activity, None for any.

    The supervisor passes it on to the keeper.
    """

    worker_type: str
    takes: dict[str, tuple[str, ...] | None]


class BootFailed(Message, frozen=True):
    """The child cannot start; `report` is the traceback, `code` the exit code it asks for."""

    code: int
    message: str
    report: str = ""


class Stopped(Message, frozen=True):
    """A worker's last message: activities it requeued, and results it could not deliver."""

    released: int
    undelivered: tuple[str, ...] = ()


class CredentialsRefused(Message, frozen=True):
    """The keeper's token requests were refused for the whole grace, and none had ever been granted."""

    detail: str


class Asked(Message, frozen=True):
    """The keeper was asked over its socket to `scale`, `reload`, `quiet`, `resume`, `drain` or for `stacks`."""

    order: str
    processes: int = 0


class NeedIsolate(Message, frozen=True):
    """A worker wants an isolate; along come its ends: channel, stdout, stderr, lifeline."""

    key: int


class KillIsolate(Message, frozen=True):
    """A worker wants its isolate's process group to be killed."""

    key: int


class Forked(Message, frozen=True):
    """The zygote's go-between says which process it has made, before that process can have ended."""

    index: int
    incarnation: int
    pid: int
    key: int = 0


class ForkFailed(Message, frozen=True):
    """The zygote could not make a process."""

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
    """Stop polling; go on with everything else."""


class Resume(Message, frozen=True):
    """Poll: the answer to a worker's Ready, and what ends Quiet."""


class Drain(Message, frozen=True):
    """Stop polling, finish within `within_s` seconds, give back the rest, exit."""

    within_s: float


class Release(Message, frozen=True):
    """Give back everything within `within_s` seconds and exit."""

    within_s: float


class DumpStacks(Message, frozen=True):
    """Write what every thread and task is doing to the log."""


class IsolateStarted(Message, frozen=True):
    """To a worker: its isolate exists."""

    key: int
    pid: int


class IsolateEnded(Message, frozen=True):
    """To a worker: its isolate has ended, with this annotated wait status, or could not be made, and why."""

    key: int
    status: int
    reason: str = ""


class Fork(Message, frozen=True):
    """To the zygote: make a worker, or an isolate of that worker where `key` is not 0.

    A process gets a segment for each worker in it: one, or one for each thread.

    Along come descriptors: for a worker its link and the file for its last words, for an isolate its channel,
    its stdout, its stderr, its lifeline and the file for its last words.
    """

    index: int
    incarnation: int
    segments: tuple[int, ...]
    limit: int
    processes: int
    key: int = 0


class WatchChild(Message, frozen=True):
    """To the keeper: the descriptor that comes along is the pidfd of the process in `segment`."""

    segment: int
    pid: int


class WatchIsolate(Message, frozen=True):
    """To the keeper: the descriptor that comes along is the pidfd of an isolate."""

    pid: int


class IsolateReaped(Message, frozen=True):
    """To the keeper: nothing is left of an isolate and its group."""

    pid: int


class SupervisorState(Message, frozen=True):
    """To the keeper, for `status`: what only the supervisor knows.

    `threads`: all workers share one process. `configured`: how many the settings ask for, where `wanted` was scaled to.
    """

    state: str
    wanted: int
    total_slots: int
    restarts: dict[int, int]
    causes: dict[int, dict[str, int]] = {}
    polling: bool = True
    most: int = 0
    threads: bool = False
    configured: int = 0


class Noted(Message, frozen=True):
    """To the keeper, for clients that watch: a line of the supervisor's log. `at` is in seconds since 1970."""

    at: float
    level: str
    event: str
    fields: dict[str, Any]


class Finish(Message, frozen=True):
    """To the keeper: every worker has ended; settle what is left within `within_s` seconds and exit."""

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
    """The bytes of one message of any length; raises what msgspec raises for what is no JSON."""
    return _encoder.encode(message)


def encode(message: Message) -> bytes:
    """The bytes of one message for a link."""
    data = _encoder.encode(message)
    assert len(data) <= MAX_BYTES, type(message)
    return data


def boot_failed(code: int, message: str, report: str = "") -> BootFailed:
    """A BootFailed whose texts fit into a message; the end of a traceback matters most."""
    return BootFailed(code, sendable(message[:_MESSAGE_CHARS]), sendable(report[-_REPORT_CHARS:]))


def ready(worker_type: str, activities: Mapping[str, str], hazards: Iterable[str] = ()) -> Ready:
    """A Ready that names as many activities as fit, and the first hazards."""
    named = {sendable(name): mode for name, mode in activities.items()}
    found = tuple(sendable(hazard[:_HAZARD_CHARS]) for hazard in islice(hazards, _MOST_HAZARDS))
    return Ready(sendable(worker_type), {name: named[name] for name in _as_many_as_fit(named)}, found)


def serves(worker_type: str, takes: Mapping[str, Iterable[str] | None]) -> Serves:
    """A Serves with as many activities as fit."""
    room = _LISTED_BYTES
    kept: dict[str, tuple[str, ...] | None] = {}
    for name, taken in takes.items():
        listed = None if taken is None else tuple(map(sendable, sorted(taken)))
        room -= len(_encoder.encode({sendable(name): listed}))
        if room >= 0:
            kept[sendable(name)] = listed
    return Serves(sendable(worker_type), kept)


def stopped(released: int, undelivered: Iterable[str]) -> Stopped:
    """A Stopped that names as many undelivered activities as fit."""
    return Stopped(released, tuple(_as_many_as_fit(undelivered)))


def noted(at: float, level: str, event: str, fields: Mapping[str, Any]) -> Noted:
    """A Noted that fits: long texts are cut, lists and tables become their length."""
    return Noted(at, level, event, {name: _short(value) for name, value in fields.items()})


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value[:_NOTE_CHARS])
    if isinstance(value, int | float | None):
        return value
    return len(value) if hasattr(value, "__len__") else repr(value)


def sendable(text: str) -> str:
    """JSON on the wire is UTF-8: lone surrogates, as in odd file names, become question marks."""
    return text.encode(errors="replace").decode()


def _as_many_as_fit(texts: Iterable[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        size += len(_encoder.encode(text)) + 16  # quotes, comma, colon and the mode
        if size > _LISTED_BYTES:
            return
        yield text


def decode(decoder: msgspec.json.Decoder[T], data: bytes | bytearray) -> T:
    """The message in these bytes; raises msgspec.DecodeError for anything else."""
    try:
        return decoder.decode(data)
    except (
        UnicodeDecodeError,
        RecursionError,
    ) as error:  # of a broken type name, or of what is nested too deep
        raise msgspec.DecodeError(str(error)) from None


def decode_upward(data: bytes) -> Upward:
    """A child's message; raises msgspec.DecodeError for anything else."""
    return decode(_upward, data)


def decode_downward(data: bytes) -> Downward:
    """The supervisor's message; raises msgspec.DecodeError for anything else."""
    return decode(_downward, data)
