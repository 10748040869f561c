"""All that a worker and one of its isolates say to each other, as JSON; no I/O.

Three messages are followed by a frame of their own, which is passed on as it is and never encoded again: `Begin` by
the activity's parameters, `Succeeded` by its output, `Save` by the content.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_UP_BYTES = 256 * 1024  # of a message of an isolate, outputs aside


class Saying(msgspec.Struct, frozen=True, tag_field="type", tag=True):
    """One message; the class name is its type."""


# Down: from the worker to its isolate


class Begin(Saying, frozen=True):
    """Run this activity; its parameters are the next frame."""

    activity_id: str
    workflow_id: str
    key: str
    name: str
    worker_type: str
    worker_id: str
    limit_s: float
    timeout_s: float | None = None
    settings: dict[str, Any] = {}
    output_definitions: tuple[dict[str, Any], ...] = ()
    signal_data: Any = None
    trace: dict[str, str] = {}  # W3C headers, where it is traced


class Cancel(Saying, frozen=True):
    """The outcome of this activity is decided, and why; SIGTERM follows."""

    activity_id: str
    reason: str


class Shutdown(Saying, frozen=True):
    """The worker begins to drain."""


class End(Saying, frozen=True):
    """There is no more work: leave the app's lifespan and exit."""


class Answered(Saying, frozen=True):
    """A call has succeeded: with a path, as the file system has it, or a file reference."""

    call: int
    result: bytes


class Refused(Saying, frozen=True):
    """A call has failed, with a file error's code."""

    call: int
    code: str
    message: str


class Dropped(Saying, frozen=True):
    """A call was ended, since the attempt was."""

    call: int


# Up: from the isolate to its worker


class Opened(Saying, frozen=True):
    """The app is there; activities may come."""


class NotOpened(Saying, frozen=True):
    """The app could not be made ready; the isolate exits."""

    message: str
    report: str = ""


class Logged(Saying, frozen=True):
    """A record of the standard library's logging."""

    logger: str
    level: int
    message: str
    fields: dict[str, Any] = {}


class Progressed(Saying, frozen=True):
    """The handler has called heartbeat()."""


class UsageRecorded(Saying, frozen=True):
    """Tokens of one call to a provider."""

    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_storage_token_hours: float = 0.0
    cost_usd: str | None = None


class CostRecorded(Saying, frozen=True):
    """US dollars that belong to no model."""

    usd: str


class Download(Saying, frozen=True):
    """Fetch a file; the answer is its path."""

    call: int
    reference: str


class Upload(Saying, frozen=True):
    """Send a file; the answer is its reference."""

    call: int
    path: bytes
    filename: str | None
    content_type: str | None


class Save(Saying, frozen=True):
    """Send the content that is the next frame; the answer is its reference."""

    call: int
    filename: str
    content_type: str


class Abandoned(Saying, frozen=True):
    """Nobody waits for this call any more."""

    call: int


class TextStreamed(Saying, frozen=True):
    """Text for whoever follows the activity; the number tells its streams apart."""

    stream: int
    text: str


class StreamClosed(Saying, frozen=True):
    """A stream is over; with `error`, badly."""

    stream: int
    error: str | None


class Measured(Saying, frozen=True):
    """What the attempt whose outcome follows has taken of the isolate, in seconds and bytes."""

    cpu_s: float
    wall_s: float
    growth_bytes: int


class Raised(Saying, frozen=True):
    """For the trace of the attempt whose outcome follows: what the handler has raised."""

    kind: str
    message: str
    report: str


class Spoiled(Saying, frozen=True):
    """The attempt whose outcome follows has left something behind, and what: no other may run here."""

    reason: str


class Succeeded(Saying, frozen=True):
    """The handler returned; its output, checked and encoded, is the next frame."""


class Unsuccessful(Saying, frozen=True):
    """The handler raised, or returned an error."""

    code: str
    message: str
    retryable: bool


Downward = Begin | Cancel | Shutdown | End | Answered | Refused | Dropped
Upward = (
    Opened
    | NotOpened
    | Logged
    | Progressed
    | UsageRecorded
    | CostRecorded
    | Download
    | Upload
    | Save
    | Abandoned
    | TextStreamed
    | StreamClosed
    | Measured
    | Raised
    | Spoiled
    | Succeeded
    | Unsuccessful
)

_encoder = msgspec.json.Encoder()
_upward: msgspec.json.Decoder[Upward] = msgspec.json.Decoder(Upward)
_downward: msgspec.json.Decoder[Downward] = msgspec.json.Decoder(Downward)


def encode(saying: Saying) -> bytes:
    """The bytes of one message; raises what msgspec raises for what is no JSON, such as halves of surrogates."""
    return _encoder.encode(saying)


def decode_upward(frame: bytes | bytearray) -> Upward:
    """An isolate's message; raises msgspec.DecodeError for anything else."""
    return _upward.decode(frame)


def decode_downward(frame: bytes | bytearray) -> Downward:
    """A worker's message; raises msgspec.DecodeError for anything else."""
    return _downward.decode(frame)
