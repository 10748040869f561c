"""Scans a ledger to send heartbeats and settle records; run by the keeper, or in a thread by `python -m flowherd`.

It reports the state of records to the engine, and stores the engine's answers as verdicts.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING

import structlog

from flowherd.awake_clock import FREEZE_S
from flowherd.background import Tasks
from flowherd.leases.adoption import OFFER_S, Adoptions
from flowherd.leases.heartbeats import Heartbeats
from flowherd.leases.poll_hold import Confirmations
from flowherd.leases.settlement import Settlement, name_of_segment
from flowherd.ledger import Cell, Claim, Ledger, Life, Record, Segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.client.engine_protocol import Engine
    from flowherd.settings.worker_config import WorkerConfig

SCAN_EVERY_S = 0.2
RESTS_FOR_S = 2.0  # while nothing is held (`Ledger.keeper_rests`)
URGENT_LEASE_S = 5 * RESTS_FOR_S  # a claim for less ends the rest: else its first beat could be late

log = structlog.stdlib.get_logger(__name__)


def ends_the_rest(ledger: Ledger, segment: Segment, shortest_lease_s: float, now: float) -> bool:
    """True when the worker in `segment` has to wake the keeper after a poll that brought work.

    Most claims are seen in time when the rest is over; to be woken for each burst of short activities would cost more
    than they do.
    """
    is_urgent = shortest_lease_s < URGENT_LEASE_S or segment.history.is_filling
    return is_urgent and ledger.keeper_rests(now)


class LeaseKeeper:
    """Sends heartbeats for every held record of the host, and settles the records of ended processes.

    Args:
        beating: the client for heartbeats only, with `heartbeats.PLACES` connections.
        settling: the client for settlements, with `settlement.PLACES` connections; slow ones must not delay beats.
        wake: wakes the worker in a segment, after a verdict.
        clock: monotonic seconds; the ledger's times are on the same clock.

    """

    def __init__(
        self,
        beating: Engine,
        settling: Engine,
        ledger: Ledger,
        config: WorkerConfig,
        wake: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._wake = wake
        self._clock = clock
        self._confirmations = Confirmations(ledger)
        self._heartbeats = Heartbeats(
            beating, ledger, config, self._confirmations, wake, clock, scan_s=SCAN_EVERY_S
        )
        self._adoptions = Adoptions(ledger, wake, clock)
        self._settlement = Settlement(
            settling,
            ledger,
            self._confirmations,
            deadline_s=config.call_deadline_s,
            poison_after=config.poison_after,
            clock=clock,
            adoptions=self._adoptions,
        )
        self._settling: set[int] = set()  # segments
        self._settling_crashed: set[tuple[int, int]] = set()  # segments and sequences
        self._unreadable: set[tuple[int, int]] = set()
        self._expected_at = inf  # its next look
        self._tasks = Tasks()
        self._segment_settled = asyncio.Event()
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Scans for ever: five times a second while anything is held, more often during offers, else when woken."""
        loop = asyncio.get_running_loop()
        while True:
            self._note_freeze()
            is_in_use = self.scan()
            self.woken.clear()
            rests = not is_in_use and self._rests()
            wait_s = OFFER_S if self._adoptions.waiting else SCAN_EVERY_S
            wait_s = RESTS_FOR_S if rests else wait_s
            timer = loop.call_later(wait_s, self.woken.set)
            self._note_freeze(wait_s)
            await self.woken.wait()
            timer.cancel()

    def _note_freeze(self, waits_s: float = 0.0) -> None:
        """Tells all workers for how long nothing ran here: they were frozen too, and lose no time by it (N4)."""
        now = self._clock()
        late_s, self._expected_at = now - self._expected_at, now + waits_s
        if late_s > FREEZE_S:
            for number in self._ledger.segments.in_use():
                self._ledger.segments[number].add(Cell.FROZEN_US, int(late_s * 1e6))
                self._wake(number)

    async def aclose(self) -> None:
        """Ends all calls, once `run` has ended and the connections are closed."""
        await self._tasks.end()
        await self._heartbeats.aclose()

    def _rests(self) -> bool:
        """True when still no record is held; announces the rest before it looks, so that no claim is missed."""
        now = self._clock()
        self._ledger.tick(now + RESTS_FOR_S)
        if self._ledger.segments.are_at_rest:
            return True
        self._ledger.tick(now)
        return False

    async def all_settled(self) -> None:
        """Returns when no ended segment waits for its settlement any more, as the host ends; `run` must be running."""
        self._adoptions.close()
        self.woken.set()
        while not self.settled:
            self._segment_settled.clear()
            await self._segment_settled.wait()

    @property
    def settled(self) -> bool:
        """True when no ended segment waits for settlement."""
        return not any(segment.life is Life.ENDED for segment in self._ledger.segments)

    def scan(self) -> bool:
        """Starts the due beats and the settlement of ended segments; returns whether any segment is in use."""
        now = self._clock()
        in_use = list(self._ledger.segments.in_use())
        self._adoptions.attend(in_use)
        held: list[tuple[Segment, Record]] = []
        owed: list[tuple[Segment, Record]] = []
        for number in in_use:
            segment = self._ledger.segments[number]
            try:
                self._look_at(segment, held, owed)
            except Exception as error:  # noqa: BLE001 - a corrupt segment must not cost the others their beats
                self._say_unreadable(segment, error)
        self._heartbeats.attend([*held, *self._adoptions.waiting], now)
        self._settling_crashed &= {(segment.number, record.sequence) for segment, record in owed}
        self._confirmations.store([*held, *owed], now)
        self._ledger.remember(now)
        self._ledger.tick(now)
        return bool(in_use)

    def _say_unreadable(self, segment: Segment, error: Exception) -> None:
        """Logs an unreadable segment once per incarnation."""
        life = (segment.number, segment.get(Cell.STARTED))
        if life not in self._unreadable:
            self._unreadable.add(life)
            log.error("segment_unreadable", **name_of_segment(segment), exc_info=error)

    def _look_at(
        self, segment: Segment, held: list[tuple[Segment, Record]], owed: list[tuple[Segment, Record]]
    ) -> None:
        """Adds a segment's records to `held`, or to `owed` when they must be settled, and starts their settlement."""
        match segment.life:
            case Life.LIVE:
                for record in segment.records():
                    if record.claim is Claim.CRASHED:
                        owed.append((segment, record))
                        self._settle_crashed_once(segment, record)
                    elif record.is_owed:
                        held.append((segment, record))
            case Life.ENDED:
                owed += [(segment, record) for record in segment.records() if record.is_owed]
                if segment.number not in self._settling:
                    self._settle_when_whole(self._ledger.process_of(segment))
            case Life.FREE:
                pass

    def _settle_crashed_once(self, segment: Segment, record: Record) -> None:
        """Starts the settlement of an attempt whose isolate died while its worker lives."""
        key = segment.number, record.sequence
        if key not in self._settling_crashed:
            self._settling_crashed.add(key)
            self._tasks.spawn(self._settle_crashed(segment, record))

    async def _settle_crashed(self, segment: Segment, record: Record) -> None:
        await self._settlement.settle_crashed(segment, record)
        self._wake(segment.number)

    def _settle_when_whole(self, segments: tuple[Segment, ...]) -> None:
        """Settles the segments of one process together, once all have ended; each worker thread has a segment."""
        if all(segment.life is Life.ENDED for segment in segments):
            self._settling.update(segment.number for segment in segments)
            self._tasks.spawn(self._settle(segments))

    async def _settle(self, segments: tuple[Segment, ...]) -> None:
        try:
            await self._settlement.settle(segments)
        finally:
            self._settling.difference_update(segment.number for segment in segments)
            self._segment_settled.set()
