"""Events found by scanning the ledger: moved slots, a hung loop, a late keeper, a used-up worker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING
from zlib import crc32

from flowherd.awake_clock import STEP_S, Witness
from flowherd.ledger import Cell, Host, Ledger, Record, Segment
from flowherd.procfs import resident_bytes
from flowherd_supervisor.core import events
from flowherd_supervisor.core.hangs import PastLimit, guilty_of_hang, keeper_late_s
from flowherd_supervisor.core.recycling import MEMORY_SAMPLES, Wear, used_up
from flowherd_supervisor.core.slot_shares import in_transit
from flowherd_supervisor.core.state import Phase
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
    """Scans the ledger between the events that wake the supervisor by themselves.

    A process counts as late only if it is late by the ledger's times and this process has observed that for as long
    while awake: after a freeze of the whole host everything gets its full time again (faults.md N4).

    Attributes:
        leases_are_held: True if the last scan found a held lease, so that the keeper is watched closely.

    """

    ledger: Ledger
    leases_are_held: bool = False
    _tick_stands: bool = False  # the keeper's tick did not change between the last two scans
    _witness: Witness = field(default_factory=Witness)
    _grown_mb: dict[tuple[int, int], deque[float]] = field(default_factory=dict)
    _grew_before: Mapping[tuple[int, int], deque[float]] = field(default_factory=dict)  # at the last scan
    checks: SegmentChecks = field(default_factory=SegmentChecks)
    _burst: Burst = field(init=False)

    def __post_init__(self) -> None:
        """Creates the burst detector for the same ledger."""
        self._burst = Burst(self.ledger)

    def patience_s(self, state: Brain) -> float:
        """Seconds until the next scan; long when idle, so that an idle host costs nearly nothing."""
        if in_transit(state):
            return SLOTS_EVERY_S
        if state.plan.burst_idle_s is not None:
            return LOOK_EVERY_S
        if state.plan.max_memory_mb_per_child:
            return WORKING_EVERY_S
        if self._tick_stands:
            return STEP_S
        segments = self.ledger.segments
        working = any(segments[number].get(Cell.HELD) for number in segments.living())
        return WORKING_EVERY_S if working or segments.ended() else IDLE_EVERY_S

    def scan(self, state: Brain, handles: Iterable[Handle], now: float, awake_s: float) -> Iterator[Event]:
        """Yields the events that the ledger leads to.

        Args:
            state: the supervisor's state; its times are on the clock of `awake_s`.
            handles: the processes.
            now: monotonic seconds, as the ledger's times.
            awake_s: seconds on this process's awake clock.

        """
        self._witness.look()
        self._grew_before, self._grown_mb = self._grown_mb, {}
        shortest_lease_s = self._shortest_lease_of_the_dead_s()
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
            chance = crc32(b"%d %d" % _names(handle)) / 2**32
            for reason in used_up(self._wear(handle), state.plan, chance):
                yield events.WorkerUsedUp(*_names(handle), reason)
        if state.plan.burst_idle_s is not None and self._burst.is_worked_off(state, awake_s):
            yield events.WorkedOff(state.plan.burst_idle_s)
        self.leases_are_held = shortest_lease_s < inf
        yield from self._keeper_late(state, shortest_lease_s, (now, awake_s))

    def _shortest_lease_of_the_dead_s(self) -> float:
        """The shortest lease that the keeper has to settle, or to give to another process; infinity for none."""
        dead = (self.ledger.segments[number] for number in self.ledger.segments.ended())
        return min(
            (record.lease_s for one in dead for record in one.records() if record.is_owed), default=inf
        )

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
        """Yields KeeperLate for a keeper that is frozen, blocked or slow."""
        keeper, (now, awake_s) = state.keeper, times
        tick = self.ledger.get(Host.KEEPER_TICK)
        seen_s = self._witness.lasts_s((keeper.number, keeper.incarnation, tick), awake_s)
        self._tick_stands = seen_s > 0 and keeper.phase is Phase.RUNNING
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
        """Yields the running activities that are past their limit."""
        now, awake_s = times
        on_loop = segment.get(Cell.ON_LOOP) - 1
        for record in records:
            if not record.is_at_work:
                continue
            frozen_s = self._witness.lasts_s(("frozen", segment.number, record.sequence), now - awake_s)
            late_s = now - record.started_at - record.limit_s - frozen_s
            concerns = record.is_held or record.index == on_loop  # a detached one may continue off the loop
            if late_s > 0 and concerns:
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
        """Measures the tasks, slots, descriptors and memory of a process."""
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
    """Combines all workers of a process: an order is applied once each of them has applied it."""
    applied = min(segment.get(Cell.LIMIT_APPLIED) for segment in handle.segments)
    held = sum(segment.get(Cell.HELD) for segment in handle.segments)
    return events.SlotsSeen(*_names(handle), applied, held)
