"""The verbs every workflow engine offers a worker, and their data; it must not know any engine's URLs or JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.activities_and_outcomes import Activity, Completed, Failed


class Verdict(Enum):
    """The engine's verdict about an attempt; anything else is an EngineError."""

    ACCEPTED = "accepted"
    GONE = "gone"  # the attempt is somebody else's or settled: stop, report nothing
    UNKNOWN = "unknown"  # no such activity: drop it
    REFUSED = "refused"  # the engine will never take these bytes


class Answer(msgspec.Struct, frozen=True):
    """A verdict and the engine's own words about it, cleaned for a log line.

    `will_retry` is false where the engine has taken a failure and makes no other attempt, whatever was asked for.
    """

    verdict: Verdict
    detail: str = ""
    will_retry: bool = True


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An item of a poll reply that cannot be run; `activity_id` is readable, so that it can be failed (R4).

    The others are what else could be read of its names, for the log.
    """

    activity_id: str
    worker_id: str
    reason: str
    workflow_id: str = ""
    key: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """The activities of one poll; may hold more than was asked for (protocol.md §4).

    `reply` is what `Engine.read_reply` reads them from; empty where nobody is to read them again.
    """

    activities: Sequence[Activity] = ()
    undecodable: Sequence[Undecodable] = ()
    reply: bytes = field(default=b"", compare=False, repr=False)


class Engine(Protocol):
    """A worker's view of an engine. Every call has one total deadline in seconds and raises EngineError."""

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """Claims up to `limit` activities; a claim counts even if its reply is lost (fact 2)."""
        ...

    def read_reply(self, reply: bytes, worker_id: str) -> Batch:
        """Reads what a poll of another process with that worker_id has brought; raises EngineError."""
        ...

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """Extends the lease by its own length from now on."""
        ...

    async def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Delivers `encode_completion`'s bytes; safe to repeat with the same bytes (fact 10)."""
        ...

    async def fail(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Delivers `encode_failure`'s bytes; the second time GONE means that the first had arrived (fact 12)."""
        ...

    async def stream_text(self, activity_id: str, text: str, index: int, deadline_s: float) -> int:
        """Passes on a piece of streamed text and returns how many have heard it (protocol.md §10)."""
        ...

    async def stream_end(self, activity_id: str, error: str | None, deadline_s: float) -> None:
        """Says to those who listen that the stream is over, with `error` that it ended badly."""
        ...

    def encode_completion(self, worker_id: str, outcome: Completed) -> bytes:
        """The bytes that `complete` sends, also by the keeper in the name of a dead worker."""
        ...

    def encode_failure(self, worker_id: str, outcome: Failed) -> bytes:
        """The bytes that `fail` sends."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...
