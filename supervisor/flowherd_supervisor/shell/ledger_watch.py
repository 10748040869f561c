"""What the ledger tells and nobody signals: slots on their way, a hung loop, a late keeper, a used-up worker.

It looks and says; it decides nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from flowherd.awake import STEP_S, Witness
from flowherd.ledger import Cell, Host, Ledger, Life, Record, Segment
from flowherd.procfs import resident_bytes
from flowherd_supervisor.core import events
from flowherd_supervisor.core.budget import in_transit
from flowherd_supervisor.core.state import Phase
from flowherd_supervisor.core.state import State as Brain
from flowherd_supervisor.shell.descriptors import open_descriptors
from flowherd_supervisor.shell.segment_checks import SegmentChecks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowherd_supervisor.core.events import Event, SlotsSeen
    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.processes.table import Handle

SLOTS_EVERY_S = 0.05
WORKING_EVERY_S = 0.5
IDLE_EVERY_S = 5.0
HANG_MARGIN_S = 0.5  # the worker itself reports at limit + grace: a loop that still turns must win
KEEPER_LATE_S = 2.0
KEEPER_LATE_AT_LEAST_S = 1.0  # under load a scan may wait this long without anything being wrong
MEMORY_SAMPLES = 3
FULL = 0.9  # of the descriptors a process may open: beyond it no connection can be had (faults.md C17)


@dataclass(slots=True)
class LedgerWatch:
    """Looks at the ledger between the events that wake the supervisor by themselves.

    Who is late by the ledger's times has also been so before this process's own eyes, and for as long as it was
    awake: whoever was frozen along with it is given the whole time again (faults.md N4).

    Attributes:
        judges: whether the last look found anybody to judge.

    """

    ledger: Ledger
    judges: bool = False
    _crash_history: bool = False  # the keeper has not moved between the last two looks
    _witness: Witness = field(default_factory=Witness)
    _too_large: Counter[tuple[int, int]] = field(default_factory=Counter)
    checks: SegmentChecks = field(default_factory=SegmentChecks)

    def patience_s(self, state: Brain) -> float:
        """Seconds until the next look is worth its cost: idle is nearly free."""
        if in_transit(state):
            return SLOTS_EVERY_S
        if state.plan.max_memory_mb_per_child:
            return WORKING_EVERY_S
        if self.judges and self._crash_history:
            return STEP_S
        working = any(
            segment.life is Life.LIVE and segment.get(Cell.HELD) for segment in self.ledger.segments
        )
        return WORKING_EVERY_S if working else IDLE_EVERY_S

    def scan(self, state: Brain, handles: Iterable[Handle], now: float, awake_s: float) -> Iterator[Event]:
        """What has been found, as facts.

        Args:
            state: the brain's; its times are on the clock of `awake_s`.
            handles: the processes.
            now: monotonic seconds, as the ledger's times.
            awake_s: the time on this process's awake clock.

        """
        self._witness.look()
        shortest_lease_s = inf
        for handle in handles:
            if found := self.checks.damage(handle, state):
                yield events.SegmentDamaged(handle.index, handle.incarnation, found)
                continue
            if not handle.segments or not all(segment.readable for segment in handle.segments):
                continue
            yield _slots_seen(handle)
            size = resident_bytes(handle.pid)
            for segment in handle.segments:
                records = [record for record in segment.records() if record.is_owed or record.is_at_work]
                shortest_lease_s = min(
                    [shortest_lease_s, *(record.lease_s for record in records if record.is_owed)]
                )
                segment.put(Cell.RESIDENT_BYTES, size or segment.get(Cell.RESIDENT_BYTES))
                yield from self._hang(handle, segment, records, state.plan, (now, awake_s))
            yield from self._used_up(handle, state.plan)
        self.judges = shortest_lease_s < inf
        if self.judges:
            yield from self._keeper_late(state, shortest_lease_s, (now, awake_s))

    def _keeper_late(
        self, state: Brain, shortest_lease_s: float, times: tuple[float, float]
    ) -> Iterator[Event]:
        """A keeper that is frozen, blocked or slow while it holds leases (design: replaced in time)."""
        keeper = state.keeper
        if keeper.phase is not Phase.RUNNING or keeper.ready_at is None:
            return
        now, awake_s = times
        tick = self.ledger.get(Host.KEEPER_TICK)
        seen_s = self._witness.lasts_s((keeper.number, keeper.incarnation, tick), awake_s)
        self._crash_history = seen_s > 0
        seen_s += STEP_S  # it may have moved a step ago
        late_s = min(now - tick / 1e6, awake_s - keeper.ready_at, seen_s)
        if late_s > max(min(KEEPER_LATE_S, shortest_lease_s / 3), KEEPER_LATE_AT_LEAST_S):
            yield events.KeeperLate(keeper.number, keeper.incarnation, late_s)

    def _hang(
        self, handle: Handle, segment: Segment, records: list[Record], plan: Plan, times: tuple[float, float]
    ) -> Iterator[Event]:
        """A record that runs past limit and grace; guilty is who is on the loop, else who is longest past its limit."""
        now, awake_s = times
        patience_s = plan.cancel_grace_s + HANG_MARGIN_S
        on_loop = segment.get(Cell.ON_LOOP) - 1
        overdue: list[Record] = []
        for record in records:
            late_s = now - record.started_at - record.limit_s
            concerns = record.is_held or record.index == on_loop  # a detached one may go on elsewhere
            if not record.is_at_work or late_s <= 0 or not concerns:
                continue
            seen_s = self._witness.lasts_s((segment.number, record.sequence), awake_s)
            if min(late_s, seen_s) > patience_s:
                overdue.append(record)
        if not overdue:
            return
        guilty = next((record for record in overdue if record.index == on_loop), None)
        guilty = guilty or max(overdue, key=lambda record: now - record.started_at - record.limit_s)
        yield events.LimitOverdue(
            handle.index, handle.incarnation, guilty.sequence, guilty.name, guilty.activity_id, guilty.limit_s
        )

    def _used_up(self, handle: Handle, plan: Plan) -> Iterator[Event]:
        """Enough activities, all slots held by handlers that do not end, no descriptors left, or too much memory.

        The numbers are spread by a tenth, so that processes that are alike are not replaced together.
        """
        names = (handle.index, handle.incarnation)
        spread = 0.9 + 0.2 * random.Random(str(names)).random()
        done = sum(
            segment.get(cell)
            for segment in handle.segments
            for cell in (Cell.COMPLETED, Cell.FAILED, Cell.LOST)
        )
        if plan.max_tasks_per_child and done >= plan.max_tasks_per_child * spread:
            yield events.WorkerUsedUp(*names, f"{done} activities")
        for segment in handle.segments:
            detached = sum(record.is_detached for record in segment.records())
            if detached and detached >= segment.get(Cell.LIMIT):
                yield events.WorkerUsedUp(
                    *names, f"all {detached} slots are held by handlers that do not end"
                )
        fds, most_fds = open_descriptors(handle.pid)
        if fds > FULL * most_fds:
            yield events.WorkerUsedUp(*names, f"{fds} of at most {most_fds} descriptors are open")
        if not plan.max_memory_mb_per_child:
            return
        most_mb = plan.max_memory_mb_per_child * spread
        first = handle.segments[0]
        grown_mb = (first.get(Cell.RESIDENT_BYTES) - first.get(Cell.FRESH_BYTES)) / 1e6
        self._too_large[names] = self._too_large[names] + 1 if grown_mb > most_mb else 0
        if self._too_large[names] >= MEMORY_SAMPLES:
            yield events.WorkerUsedUp(*names, f"{grown_mb:.0f} MB more than when fresh")


def _slots_seen(handle: Handle) -> SlotsSeen:
    """All workers of a process as one: an order has been applied when each of them has applied it."""
    applied = min(segment.get(Cell.LIMIT_APPLIED) for segment in handle.segments)
    held = sum(segment.get(Cell.HELD) for segment in handle.segments)
    return events.SlotsSeen(handle.index, handle.incarnation, applied, held)
