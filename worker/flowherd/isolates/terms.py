"""What everybody who deals with isolates speaks of: stages, rules, and whoever makes them; nothing acts here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class IsolateHost(Protocol):
    """Whoever makes and ends isolates; what became of it is told to `Isolates.started` and `ended`."""

    def need(self, key: int, fds: Sequence[int]) -> None:
        """Asks for an isolate with these three descriptors; OSError when nobody can be asked."""
        ...

    def stop(self, key: int) -> None:
        """Asks for SIGTERM to its group."""
        ...

    def kill(self, key: int) -> None:
        """Asks for SIGKILL to its group."""
        ...


class Stage(Enum):
    """Where an isolate stands."""

    OPENING = "opening"  # it is being made, or makes the app ready
    IDLE = "idle"
    RUNNING = "running"
    SETTLING = "settling"  # the activity has ended; what it has printed is not all in the log yet
    ENDING = "ending"  # it gets no more work
    GONE = "gone"  # the supervisor has reaped it


@dataclass(frozen=True, slots=True)
class IsolateRules:
    """What holds for every isolate of a worker.

    Attributes:
        max_tasks: activities after which it is replaced.
        boot_timeout_s: from its order until the app is ready in it.
        secrets: must not appear in messages or logs.

    """

    max_tasks: int = 100
    boot_timeout_s: float = 30.0
    secrets: tuple[str, ...] = ()
