"""The facts that the ledger tells and nobody signals: slots on their way, a hung loop, a late keeper, a used-up worker.

It looks and says; it decides nothing.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from flowherd.awake_clock import STEP_S, Witness
from flowherd.ledger import Cell, Host, Ledger, Life, Record, Segment
from flowherd.memory import resident_bytes
from flowherd_supervisor.core import events
from flowherd_supervisor.core.hangs import PastLimit, guilty_of_hang, keeper_late_s
from flowherd_supervisor.core.recycling import MEMORY_SAMPLES, Wear, used_up
from flowherd_supervisor.core.slot_shares import in_transit
from flowherd_supervisor.shell.burst_mode import LOOK_EVERY_S, Burst
from flowherd_supervisor.shell.descriptor_limit import open_descriptors
from flowherd_supervisor.shell.segment_checks import SegmentChecks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flowherd_supervisor.core.events import Event, SlotsSeen
    from flowherd_supervisor.core.state import State as Brain
    from flowherd_supervisor.processes.process_table import Handle

SLOTS_EVERY_S = 0.05
WORKING_EVERY_S = 0.5
IDLE_EVERY_S = 5.0


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
    _grown_mb: dict[tuple[int, int], deque[float]] = field(default_factory=dict)
    _grew_before: Mapping[tuple[int, int], deque[float]] = field(default_factory=dict)  # at the last look
    checks: SegmentChecks = field(default_factory=SegmentChecks)
    _burst: Burst = field(init=False)

    def __post_init__(self) -> None:
        """Makes the burst watch read the same ledger."""
        self._burst = Burst(self.ledger)

    def patience_s(self, state: Brain) -> float:
        """Seconds until the next look is worth its cost: idle is nearly free."""
        if in_transit(state):
            return SLOTS_EVERY_S
        if state.plan.burst_idle_s is not None:
            return LOOK_EVERY_S
        if state.plan.max_memory_mb_per_child:
            return WORKING_EVERY_S
        if self.judges and self._crash_history:
            return STEP_S
        working = any(
            segment.life is Life.LIVE and segment.get(Cell.HELD) for segment in self.ledger.segments
        )
        return WORKING_EVERY_S if working else IDLE_EVERY_S

    def scan(self, state: Brain, handles: Iterable[Handle], now: float, awake_s: float) -> Iterator[Event]:
        """Yields what it finds, as facts.

        Args:
            state: the brain's; its times are on the clock of `awake_s`.
            handles: the processes.
            now: monotonic seconds, as the ledger's times.
            awake_s: the time on this process's awake clock.

        """
        self._witness.look()
        self._grew_before, self._grown_mb = self._grown_mb, {}
        shortest_lease_s = inf
        for handle in handles:
            if found := self.checks.damage(handle, state):
                yield events.SegmentDamaged(*_names(handle), found)
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
                past_limit = self._past_limit(segment, records, (now, awake_s))
                if one := guilty_of_hang(past_limit, state.plan.cancel_grace_s):
                    yield self._overdue(handle, one)
            chance = random.Random(str(_names(handle))).random()
            for reason in used_up(self._wear(handle), state.plan, chance):
                yield events.WorkerUsedUp(*_names(handle), reason)
        if state.plan.burst_idle_s is not None and self._burst.is_worked_off(state, awake_s):
            yield events.WorkedOff(state.plan.burst_idle_s)
        self.judges = shortest_lease_s < inf
        if self.judges:
            yield from self._keeper_late(state, shortest_lease_s, (now, awake_s))

    def _overdue(self, handle: Handle, one: PastLimit) -> events.LimitOverdue:
        return events.LimitOverdue(
            *_names(handle),
            one.sequence,
            one.name,
            one.activity_id,
            one.limit_s,
            workflow_id=one.workflow_id,
            key=one.key,
            seen=1 + self.ledger.seen.earlier(one.activity_id),
        )

    def _keeper_late(
        self, state: Brain, shortest_lease_s: float, times: tuple[float, float]
    ) -> Iterator[Event]:
        """A keeper that is frozen, blocked or slow while it holds leases: it is replaced in time."""
        keeper, (now, awake_s) = state.keeper, times
        tick = self.ledger.get(Host.KEEPER_TICK)
        seen_s = self._witness.lasts_s((keeper.number, keeper.incarnation, tick), awake_s)
        self._crash_history = seen_s > 0
        late_s = keeper_late_s(
            keeper,
            tick_age_s=now - tick / 1e6,
            seen_s=seen_s,
            awake_s=awake_s,
            shortest_lease_s=shortest_lease_s,
        )
        if late_s is not None:
            yield events.KeeperLate(keeper.number, keeper.incarnation, late_s)

    def _past_limit(
        self, segment: Segment, records: list[Record], times: tuple[float, float]
    ) -> Iterator[PastLimit]:
        """Activities at work whose limit is over."""
        now, awake_s = times
        on_loop = segment.get(Cell.ON_LOOP) - 1
        for record in records:
            late_s = now - record.started_at - record.limit_s
            concerns = record.is_held or record.index == on_loop  # a detached one may go on elsewhere
            if record.is_at_work and late_s > 0 and concerns:
                yield PastLimit(
                    record.sequence,
                    record.name,
                    record.activity_id,
                    record.limit_s,
                    late_s=late_s,
                    seen_s=self._witness.lasts_s((segment.number, record.sequence), awake_s),
                    is_on_loop=record.index == on_loop,
                    workflow_id=record.workflow_id,
                    key=record.key,
                )

    def _wear(self, handle: Handle) -> Wear:
        """Measures how far a process is used up."""
        counted = (Cell.COMPLETED, Cell.FAILED, Cell.LOST)
        first = handle.segments[0]
        grown_mb = self._grew_before.get(_names(handle)) or deque(maxlen=MEMORY_SAMPLES)
        self._grown_mb[_names(handle)] = grown_mb
        grown_mb.append((first.get(Cell.RESIDENT_BYTES) - first.get(Cell.FRESH_BYTES)) / 1e6)
        return Wear(
            done=sum(segment.get(cell) for segment in handle.segments for cell in counted),
            slots=[(_detached(segment), segment.get(Cell.LIMIT)) for segment in handle.segments],
            descriptors=open_descriptors(handle.pid),
            grown_mb=grown_mb,
        )


def _names(handle: Handle) -> tuple[int, int]:
    return handle.index, handle.incarnation


def _detached(segment: Segment) -> int:
    return sum(record.is_detached for record in segment.records())


def _slots_seen(handle: Handle) -> SlotsSeen:
    """All workers of a process as one: an order has been applied when each of them has applied it."""
    applied = min(segment.get(Cell.LIMIT_APPLIED) for segment in handle.segments)
    held = sum(segment.get(Cell.HELD) for segment in handle.segments)
    return events.SlotsSeen(*_names(handle), applied, held)
