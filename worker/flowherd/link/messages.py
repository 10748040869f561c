"""All messages between the supervisor and its children: one JSON object each, at most 64 KiB."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
MAX_BYTES = 64 * 1024


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
    """The keeper received `scale`, `reload`, `quiet`, `resume`, `drain`, `stacks` or `keep` on its admin socket."""

    order: str
    processes: int = 0
    activity: str = ""


class NeedIsolate(Message, frozen=True):
    """A worker requests an isolate; sent with the descriptors for its channel, stdout, stderr and lifeline."""

    key: int


class KillIsolate(Message, frozen=True):
    """A worker requests that its isolate's process group be killed."""

    key: int


class LoopBlocked(Message, frozen=True):
    """A worker reports a run that occupies its loop: once while it lasts, if it is seen then, and once when it is over.

    `seconds` is the time in one step, `cpu_share` the share of a CPU that this took.
    """

    name: str
    place: str
    seconds: float
    cpu_share: float
    is_over: bool


class MoveFailed(Message, frozen=True):
    """A worker can get no isolate for a moved activity, and runs it on the loop again."""

    name: str
    reason: str


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


class SetMoved(Message, frozen=True):
    """Run these activities in isolates, with their measured share of a CPU, and keep those on the loop."""

    moved: dict[str, float]
    kept: tuple[str, ...] = ()


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


class Move(msgspec.Struct, frozen=True):
    """A moved activity: where it blocked the loop, and for how many seconds."""

    place: str
    blocked_s: float


class SupervisorState(Message, frozen=True):
    """To the keeper, for `status`: the supervisor's state.

    `threads`: True when all workers share one process. `configured`: the number of processes in the settings; `wanted`
    is the number after scaling. `moves`: how often each activity was moved, which never decreases.
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
    moved: dict[str, Move] = {}
    kept: tuple[str, ...] = ()
    moves: dict[str, int] = {}


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
Upward = (
    Ready
    | Serves
    | BootFailed
    | Stopped
    | CredentialsRefused
    | Asked
    | FromWorker
    | LoopBlocked
    | MoveFailed
    | FromZygote
)
ToWorker = SetSlots | SetMoved | DumpStacks | Quiet | Resume | Drain | Release | IsolateStarted | IsolateEnded
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
