"""`--burst`: detects from the ledger that all work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.ledger import Cell, Ledger, Life, ProcessTotal
from flowherd_supervisor.core.state import Mode

if TYPE_CHECKING:
    from flowherd_supervisor.core.state import State as Brain

LOOK_EVERY_S = 0.2


@dataclass(slots=True)
class Burst:
    """Tracks how long the host has had nothing to do.

    The engine does not report how much is queued: a poll that returns nothing is the only sign of an empty queue.
    """

    ledger: Ledger
    _claimed: int = -1
    _idle_since: float = 0.0
    _empty_before: int = 0

    def is_worked_off(self, state: Brain, awake_s: float) -> bool:
        """True once nothing was held or claimed for `burst_idle_s`, and a poll in that time returned nothing.

        Polls without an answer do not count; records of a dead process are work until they are settled.

        Args:
            state: the supervisor's state.
            awake_s: seconds on this process's awake clock.

        """
        idle_s = state.plan.burst_idle_s
        if idle_s is None or state.mode is not Mode.SERVING or not state.polling:
            return False
        claimed, empty = self._total(Cell.CLAIMED), self._total(Cell.EMPTY_POLLS)
        if self._is_busy() or claimed != self._claimed:
            self._claimed, self._idle_since, self._empty_before = claimed, awake_s, empty
        return awake_s - self._idle_since >= idle_s and empty > self._empty_before

    def _is_busy(self) -> bool:
        return any(
            segment.life is Life.ENDED
            or (
                segment.life is Life.LIVE
                and segment.readable
                and any(record.is_owed or record.is_at_work for record in segment.records())
            )
            for segment in self.ledger.segments
        )

    def _total(self, cell: Cell) -> int:
        ended = self.ledger.ended_total(ProcessTotal[cell.name])
        return ended + sum(self.ledger.count(segment, cell) for segment in self.ledger.segments)
