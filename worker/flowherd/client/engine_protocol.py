"""The calls that a workflow engine offers a worker, and their data, independent of any engine's URLs and JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.activities_and_outcomes import Activity, Completed, Failed


class Verdict(Enum):
    """The engine's verdict on an attempt; any other reply is an EngineError."""

    ACCEPTED = "accepted"
    GONE = "gone"  # another worker holds the attempt, or it is settled: stop, report nothing
    UNKNOWN = "unknown"  # no such activity: drop it
    REFUSED = "refused"  # the engine will never accept these bytes
    TOO_LARGE = "too large"  # nor so many


class Answer(msgspec.Struct, frozen=True):
    """A verdict with the engine's message, cleaned for a log line.

    `will_retry` is False when the engine accepted a failure and makes no other attempt, even for a retryable one.
    """

    verdict: Verdict
    detail: str = ""
    will_retry: bool = True


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An item of a poll reply that cannot be run; its `activity_id` is readable, so it can be failed (R4).

    The other names are those that could be read, for the log.
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
    """The calls of a worker to an engine; each has one total deadline in seconds and raises EngineError."""

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """Claims up to `limit` activities; a claim counts even when the reply is lost (fact 2)."""
        ...

    def read_reply(self, reply: bytes, worker_id: str) -> Batch:
        """Reads what a poll of another process with that worker_id has brought; raises EngineError."""
        ...

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """Extends the lease to its full length from now on."""
        ...

    async def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Sends the bytes of `encode_completion`; safe to repeat with the same bytes (fact 10)."""
        ...

    async def fail(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Sends the bytes of `encode_failure`; GONE for a repeated call means that the first had arrived (fact 12)."""
        ...

    async def stream_text(self, activity_id: str, text: str, index: int, deadline_s: float) -> int:
        """Sends a piece of streamed text and returns the number of subscribers (protocol.md §10)."""
        ...

    async def stream_end(self, activity_id: str, error: str | None, deadline_s: float) -> None:
        """Ends the stream for its subscribers, with `error` when it failed."""
        ...

    def encode_completion(self, worker_id: str, outcome: Completed) -> bytes:
        """Returns the bytes for `complete`; the keeper also sends them on behalf of a dead worker."""
        ...

    def encode_failure(self, worker_id: str, outcome: Failed) -> bytes:
        """Returns the bytes for `fail`."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...
