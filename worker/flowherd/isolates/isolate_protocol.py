"""All messages between a worker and one of its isolates, as JSON; no I/O.

Bytes belong to two of them, which are passed on as they are and never encoded again: the activity's parameters to
`Begin`, and the output to an `Ended` without a failure. An isolate calls the engine itself, and keeps what its
attempt spends on the attempt's usage page: neither is said here. The end of the worker's messages means that there is
no more work: the isolate leaves the app's lifespan and exits.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from flowherd.activities_and_outcomes import Activity, Failed, Usage  # noqa: TC001 - msgspec reads annotations
from flowherd.link.messages import BootFailed, Message, Ready, decode
from flowherd.link.messages import encode_any as encode

__all__ = ["Message", "encode"]

MAX_UP_BYTES = 1 << 20  # of a message of an isolate, outputs aside
Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Growth = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
MAX_USAGE_BYTES = MAX_UP_BYTES // 2  # what is longer is merged as for the ledger


class UsagePlace(msgspec.Struct, frozen=True):
    """The attempt's usage page: of which segment, in which of its lives, which one, under which sequence."""

    segment: int
    life: int
    page: int
    sequence: int


# From the worker to its isolate


class Begin(Message, frozen=True):
    """Run this activity.

    Attributes:
        activity: without its parameters.
        limit_s: seconds the handler may take.
        mark: ends what the activity has printed.
        usage: where its sums are kept.
        folder: where its files go; may not exist yet, and is empty where there is no room for any.
        seen: how often the host has been given the activity.
        trace: W3C headers, where it is traced.

    """

    activity: Activity
    limit_s: float
    mark: str
    usage: UsagePlace
    folder: str = ""
    seen: int = 1
    trace: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it


class Stop(Message, frozen=True):
    """The outcome of the activity here is decided, and why: its handler and its transfers shall end.

    No other activity follows.
    """

    reason: str


class Draining(Message, frozen=True):
    """The worker has begun to drain: handlers may want to know."""


# From the isolate to its worker, after a `Ready` once activities may come, or a `BootFailed`


class TokenRefused(Message, frozen=True):
    """The engine has refused this version of the host's token: the worker asks the keeper for another."""

    version: Version


class Ended(Message, frozen=True):
    """The handler has ended: how, what it has spent, and what it has taken of the isolate, in seconds and bytes."""

    failure: Failed | None
    cost_usd: str | None = None
    usage: tuple[Usage, ...] = ()
    cpu_s: Seconds = 0.0
    wall_s: Seconds = 0.0
    queued_s: Seconds = 0.0
    growth_bytes: Growth = 0


class LeftBehind(Message, frozen=True):
    """The activity that has ended has left something behind, and what: no other may run here."""

    reason: str


Downward = Begin | Stop | Draining
Upward = Ready | BootFailed | TokenRefused | Ended | LeftBehind

_upward: msgspec.json.Decoder[Upward] = msgspec.json.Decoder(Upward)
_downward: msgspec.json.Decoder[Downward] = msgspec.json.Decoder(Downward)


def decode_upward(frame: bytes | bytearray) -> Upward:
    """An isolate's message; raises msgspec.DecodeError for anything else."""
    return decode(_upward, frame)


def decode_downward(frame: bytes | bytearray) -> Downward:
    """A worker's message; raises msgspec.DecodeError for anything else."""
    return decode(_downward, frame)
