"""Beats and settles a ledger's records: run by the keeper, or in a thread by `python -m flowherd`.

It runs no user code and never changes a record: it tells the engine what the ledger says, and writes what
the engine answers as verdicts.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from flowherd.leases.confirmations import Confirmations
from flowherd.leases.heartbeats import Heartbeats
from flowherd.leases.settlement import Settlement, name_of_segment
from flowherd.ledger import HELD, Berth, Cell, Ledger, Life, Record, State
from flowherd.working.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.config import WorkerConfig
    from flowherd.client.protocol import Engine

SCAN_EVERY_S = 0.2
RESTS_FOR_S = 2.0  # while nothing is held: whoever claims ends the rest (`Ledger.keeper_rests`)

log = structlog.stdlib.get_logger(__name__)


class LeaseKeeper:
    """Heartbeats for every held record of the host, and a settlement for what ended processes held.

    Args:
        beating: sends heartbeats, with `heartbeats.PLACES` connections, and nothing else.
        settling: sends settlements, with `settlement.PLACES` connections: slow ones must make no beat late.
        ring: wakes the worker in a berth, after a verdict.
        clock: monotonic seconds; the ledger's times are on the same clock.

    """

    def __init__(
        self,
        beating: Engine,
        settling: Engine,
        ledger: Ledger,
        config: WorkerConfig,
        ring: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._ring = ring
        self._clock = clock
        self._confirmations = Confirmations(ledger)
        self._heartbeats = Heartbeats(
            beating, ledger, config, self._confirmations, ring, clock, scan_s=SCAN_EVERY_S
        )
        self._settlement = Settlement(
            settling,
            ledger,
            self._confirmations,
            deadline_s=config.call_deadline_s,
            poison_after=config.poison_after,
            clock=clock,
        )
        self._settling: set[int] = set()  # berths
        self._settling_dead: set[tuple[int, int]] = set()  # berths and sequences
        self._unreadable: set[tuple[int, int]] = set()
        self._tasks = Tasks()
        self._berth_settled = asyncio.Event()
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Scans for ever: five times a second while anything is held, else when it is woken."""
        loop = asyncio.get_running_loop()
        while True:
            self.scan()
            self.woken.clear()
            timer = loop.call_later(RESTS_FOR_S if self._rests() else SCAN_EVERY_S, self.woken.set)
            await self.woken.wait()
            timer.cancel()

    def _rests(self) -> bool:
        """Whether nothing is held; says so first, since a claim that comes in between has to be seen."""
        if not self._ledger.berths.are_at_rest:
            return False
        now = self._clock()
        self._ledger.tick(now + RESTS_FOR_S)
        if self._ledger.berths.are_at_rest:
            return True
        self._ledger.tick(now)
        return False

    async def all_settled(self) -> None:
        """Returns when no ended berth waits for its settlement any more; `run` must be running."""
        self.woken.set()
        while not self.settled:
            self._berth_settled.clear()
            await self._berth_settled.wait()

    @property
    def settled(self) -> bool:
        """Whether no ended berth waits for its settlement any more."""
        return not any(berth.life is Life.ENDED for berth in self._ledger.berths)

    def scan(self) -> None:
        """Starts the beats that are due and the settlement of berths that have ended."""
        now = self._clock()
        held: list[tuple[Berth, Record]] = []
        owed: list[tuple[Berth, Record]] = []
        for berth in self._ledger.berths:
            try:
                self._look_at(berth, held, owed)
            except Exception as error:  # noqa: BLE001 - what stands in one berth must not cost the others their beats
                self._say_unreadable(berth, error)
        self._heartbeats.attend(held, now)
        self._settling_dead &= {(berth.number, record.sequence) for berth, record in owed}
        self._confirmations.store([*held, *owed], now)
        self._ledger.tick(now)

    def _say_unreadable(self, berth: Berth, error: Exception) -> None:
        """Once for each incarnation."""
        life = (berth.number, berth.get(Cell.STARTED))
        if life not in self._unreadable:
            self._unreadable.add(life)
            log.error("segment_unreadable", **name_of_segment(berth), exc_info=error)

    def _look_at(
        self, berth: Berth, held: list[tuple[Berth, Record]], owed: list[tuple[Berth, Record]]
    ) -> None:
        """Adds what living handlers hold to `held`, and to `owed` what has died and is being settled."""
        match berth.life:
            case Life.LIVE:
                for record in berth.records():
                    if record.state is State.DEAD:
                        owed.append((berth, record))
                        self._settle_dead_once(berth, record)
                    elif record.state in HELD:
                        held.append((berth, record))
            case Life.ENDED:
                owed += [(berth, record) for record in berth.records() if record.state in HELD]
                if berth.number not in self._settling:
                    self._settle_when_whole(self._ledger.process_of(berth))
            case Life.FREE:
                pass

    def _settle_dead_once(self, berth: Berth, record: Record) -> None:
        """Settles what has died in an isolate, while its worker lives."""
        key = berth.number, record.sequence
        if key not in self._settling_dead:
            self._settling_dead.add(key)
            self._tasks.spawn(self._settle_dead(berth, record))

    async def _settle_dead(self, berth: Berth, record: Record) -> None:
        await self._settlement.settle_dead(berth, record)
        self._ring(berth.number)

    def _settle_when_whole(self, berths: tuple[Berth, ...]) -> None:
        """A process of several threads ends berth by berth, and is judged as one."""
        if all(berth.life is Life.ENDED for berth in berths):
            self._settling.update(berth.number for berth in berths)
            self._tasks.spawn(self._settle(berths))

    async def _settle(self, berths: tuple[Berth, ...]) -> None:
        try:
            await self._settlement.settle(berths)
        finally:
            self._settling.difference_update(berth.number for berth in berths)
            self._berth_settled.set()
