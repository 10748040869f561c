"""Suspects: which activities a death of their process is held against, and when one is given up as POISON. Pure.

The ledger says what every handler did when its process died: it was on the loop (`Cell.ON_LOOP`), it ran in a thread,
or it waited (`await`). A death is charged to all of them; only a suspect runs in an isolate from then on, or without
isolates alone, and only a death alone can prove a suspicion.

    handlers of the dead process      the process died of        part       suspect  proof when alone
    --------------------------------  -------------------------  ---------  -------  ----------------
    it was on the loop                anything                   ON_LOOP    yes      yes
    it ran in a thread                anything                   IN_THREAD  yes      yes
    it waited, another one was on
      the loop or in a thread         anything                   WAITED     no       -
      ... and that is its second      anything                   AGAIN      yes      no
    it waited, as all others          a kill from outside        WAITED     no       -
      ... and that is its second      a kill from outside        AGAIN      yes      no
    it waited, as all others          anything else              UNSEEN     yes      yes
    it was alone in an isolate, and
      waited                          a kill from outside        HIT        not charged
      waited                          anything else              UNSEEN     yes      yes
      did not wait                    anything                   ON_LOOP    yes      yes
    it had not begun, or has ended    anything                   none       not charged
    any                               an order of flowherd, or   none       not charged
                                      another one that hung it

A *kill from outside* is a SIGKILL that the kernel has not counted as out of memory and the supervisor has not sent. It
cannot be the crash of a C thread or of a task that was left behind: those end with another signal or an exit code, and
with no handler on a CPU all are suspects (UNSEEN). A death by the memory limit is held against who was on a CPU, and
with nobody there against all: in isolates of their own the largest one dies again.

A task or thread that sends SIGKILL to its own process looks like a kill from outside the first time. The second time
makes its activity a suspect (AGAIN), and in an isolate Python's own `os.kill` is seen: the isolate did not wait then. A
suspect never again runs beside others, so no two deaths have one in common, and killers that die in turn shield nobody:
whoever waited in both is a suspect after the second.

An activity is given up once `poison_after` deaths are charged to it and the last one is a proof: nothing else ran in
that process. With 3 a killer ends with its third death at the latest; an activity that waits whenever it is killed from
outside never does. Two things are not told apart: a kill from outside of an isolate whose handler does not wait is held
against it, and C code that sends SIGKILL to its own process while its handler waits is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flowherd.wait_status import is_from_outside


class Part(Enum):
    """The part of an attempt in the death of its process; the value completes *while the activity ...*."""

    ON_LOOP = "was on the loop"
    IN_THREAD = "ran in a thread"
    UNSEEN = "ran, with no handler on the loop or in a thread"
    AGAIN = "ran and waited, as when another process died with it"
    WAITED = "ran and waited"
    HIT = "ran and waited in it"


_SUSPECTS = frozenset({Part.ON_LOOP, Part.IN_THREAD, Part.UNSEEN, Part.AGAIN})
_PROOFS = _SUSPECTS - {Part.AGAIN}


@dataclass(frozen=True, slots=True)
class Death:
    """The death of a process that nobody had ordered.

    Attributes:
        status: a wait status with the bits of `flowherd.wait_status`.
        at_work: the sequences of the records whose handlers ran in it, also in its other segments.
        on_loop: those of them that were on a loop. In an isolate: its only one, unless its handler waited.
        in_threads: those of them that ran in threads.
        is_isolate: True for an isolate.

    """

    status: int
    at_work: frozenset[int]
    on_loop: frozenset[int] = frozenset()
    in_threads: frozenset[int] = frozenset()
    is_isolate: bool = False


def part_of(death: Death, sequence: int, deaths_before: int) -> Part | None:
    """Returns the part of an attempt in a death; None for one that did not run in that process.

    Args:
        death: of its process.
        sequence: of its record.
        deaths_before: the number of deaths charged to its activity before.

    """
    if sequence not in death.at_work:
        return None
    if sequence in death.on_loop:
        return Part.ON_LOOP
    if sequence in death.in_threads:
        return Part.IN_THREAD
    if not (is_from_outside(death.status) or death.on_loop or death.in_threads):
        return Part.UNSEEN
    if death.is_isolate:
        return Part.HIT
    return Part.AGAIN if deaths_before else Part.WAITED


def is_charged(part: Part | None) -> bool:
    """True when the death counts for the activity."""
    return part is not None and part is not Part.HIT


def is_suspect(part: Part | None) -> bool:
    """True when the activity may have caused the death."""
    return part in _SUSPECTS


def is_given_up(death: Death, part: Part | None, deaths: int, poison_after: int) -> bool:
    """True when an activity fails for good.

    Args:
        death: the last one.
        part: its part in that.
        deaths: the number of deaths charged to it, with the last.
        poison_after: so many are enough, 0 for never.

    """
    return 0 < poison_after <= deaths and part in _PROOFS and len(death.at_work) == 1
