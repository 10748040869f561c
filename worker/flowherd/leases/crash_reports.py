"""What the engine's users read of a process that took their activity with it; it tells nobody and charges nobody."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from flowherd.model import Failed
from flowherd.ledger import Berth, Cause, Cell, State
from flowherd.exit_status import describe_status, may_be_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.ledger import Record

_NAMED = 3  # of the activities that ran beside it
_WAITING = {State.CLAIMED: "waited to begin", State.REPORTING: "was being reported"}


def failure_of(berth: Berth, record: Record, beside: Sequence[Record]) -> Failed:
    """The cause the supervisor wrote, and what stood near it (design §5, cause → code).

    Args:
        berth: the record's.
        record: what has no outcome.
        beside: all that its process held, also in other berths.

    """
    if record.state is State.DEAD:
        how = (berth.journal(record.index) or b"its isolate ended").decode()
        return Failed("WORKER_CRASHED", how, retryable=True)
    doing = _WAITING.get(record.state, "ran")
    who = f"worker process {berth.get(Cell.SEAT)} (pid {berth.get(Cell.PID)})"
    if berth.get(Cell.CAUSE) == Cause.STOPPED:
        return Failed("WORKER_SHUTDOWN", f"{who} was stopped while the activity {doing}", retryable=True)
    if berth.get(Cell.CAUSE) == Cause.HUNG:
        return _hung(berth, record, beside, who)
    how = describe_status(berth.get(Cell.EXIT_STATUS)) + _memory(berth)
    neighbours = _beside(record, beside)
    return Failed("WORKER_CRASHED", f"{who} {how} while the activity {doing}{neighbours}", retryable=True)


def _hung(berth: Berth, record: Record, beside: Sequence[Record], who: str) -> Failed:
    """The guilty one has timed out; what ran beside it has lost its process and is told why."""
    if record.sequence == berth.get(Cell.GUILTY):
        message = f"the handler blocked {who} for longer than its limit of {record.limit_s:g} s"
        return Failed("TIMEOUT", message, retryable=True)
    guilty = berth.get(Cell.GUILTY)
    name = next((other.name for other in beside if other.sequence == guilty), "another one")
    return Failed("WORKER_CRASHED", f"{who} was ended because activity {name!r} blocked it", retryable=True)


def _memory(berth: Berth) -> str:
    """How large a process was that the kernel may have ended for want of memory (faults.md C10)."""
    size = berth.get(Cell.RESIDENT_BYTES)
    if not size or not may_be_out_of_memory(berth.get(Cell.EXIT_STATUS)):
        return ""
    return f", last seen with {size / 1e6:.0f} MB in memory,"


def _beside(record: Record, beside: Sequence[Record]) -> str:
    """Which handlers were at work in the same process: one of them may have ended it."""
    busy = (State.RUNNING, State.ZOMBIE)
    others = Counter(
        other.name for other in beside if other.state in busy and other.sequence != record.sequence
    )
    if not others:
        return ""
    names = ", ".join(f"{count} x {name!r}" for name, count in others.most_common(_NAMED))
    return f" beside {names}" + (" and others" if len(others) > _NAMED else "")
