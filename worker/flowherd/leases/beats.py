"""Beats and settles a ledger's records: run by the keeper, or in a thread by `python -m flowherd`.

It runs no user code and never changes a record: it tells the engine what the ledger says, and writes what
the engine answers as verdicts.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd.client.gate import Gate
from flowherd.core.retries import Backoff
from flowherd.engine import Answer, Engine, Verdict
from flowherd.errors import EngineDisconnected, EngineError
from flowherd.leases.settlement import Settlement, name_of_segment
from flowherd.ledger import HELD, Berth, Cell, Host, Ledger, Life, Record, Standing, State
from flowherd.working.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.config import WorkerConfig

SCAN_EVERY_S = 0.2
RESTS_FOR_S = 2.0  # while nothing is held: whoever claims ends the rest (`Ledger.keeper_rests`)
_SHORTEST_BEAT_S = 0.1  # a lease shorter than the round trip must not become a busy loop (faults.md E22)
_AT_ONCE_BELOW_S = 2.0  # a shorter lease gets its first beat at once
_LONGEST_BEAT_CALL_S = 10.0  # one hung probe must not keep all leases waiting
_AT_ONCE = 16  # calls under way, so that a burst never opens a connection per activity
_BACKOFF = Backoff(cap_s=2.0)  # leases wait: sooner than a worker's own calls

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """What is remembered of one record between scans."""

    next_beat_at: float
    is_beating: bool = False
    is_settling: bool = False


class LeaseKeeper:
    """Heartbeats for every held record of the host, and a settlement for what ended processes held.

    Args:
        ring: wakes the worker in a berth, after a verdict.
        clock: monotonic seconds; the ledger's times are on the same clock.

    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        config: WorkerConfig,
        ring: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._config = config
        self._ring = ring
        self._clock = clock
        self._rng = random.Random()
        self._calls = asyncio.Semaphore(_AT_ONCE)
        self._gate = Gate(_BACKOFF)
        self._settlement = Settlement(
            engine,
            ledger,
            self._calls,
            deadline_s=config.call_deadline_s,
            poison_after=config.poison_after,
            clock=clock,
        )
        self._watched: dict[tuple[int, int], _Watch] = {}
        self._settling: set[int] = set()
        self._short_leases: set[str] = set()
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
        self._ledger.tick(now)
        seen: set[tuple[int, int]] = set()
        for berth in self._ledger.berths:
            try:
                self._look_at(berth, now, seen)
            except Exception as error:  # noqa: BLE001 - what stands in one berth must not cost the others their beats
                self._say_unreadable(berth, error)
        for key in self._watched.keys() - seen:
            del self._watched[key]

    def _look_at(self, berth: Berth, now: float, seen: set[tuple[int, int]]) -> None:
        match berth.life:
            case Life.LIVE:
                for record in berth.records():
                    if record.state in HELD:
                        seen.add((berth.number, record.sequence))
                        self._attend(berth, record, now)
            case Life.ENDED if berth.number not in self._settling:
                self._settle_when_whole(self._ledger.process_of(berth))
            case _:
                pass

    def _say_unreadable(self, berth: Berth, error: Exception) -> None:
        """Once for each incarnation."""
        life = (berth.number, berth.get(Cell.STARTED))
        if life not in self._unreadable:
            self._unreadable.add(life)
            log.error("segment_unreadable", **name_of_segment(berth), exc_info=error)

    def _attend(self, berth: Berth, record: Record, now: float) -> None:
        """A beat if one is due, or the settlement of what has died in an isolate."""
        watch = self._watched.get((berth.number, record.sequence))
        if watch is None:
            watch = self._watched[berth.number, record.sequence] = self._first_watch(record, now)
        if record.state is not State.DEAD:
            self._beat_if_due(berth, record, watch, now)
        elif not watch.is_settling:
            watch.is_settling = True
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

    # Heartbeats

    def _beat_if_due(self, berth: Berth, record: Record, watch: _Watch, now: float) -> None:
        if watch.is_beating or now < watch.next_beat_at - self._early_s(record):
            return
        if berth.standing(record.index, record.sequence) is Standing.GONE:
            return  # it is somebody else's: a late beat could only disturb them
        watch.is_beating = True
        self._tasks.spawn(self._beat(berth, record, watch))

    def _first_watch(self, record: Record, now: float) -> _Watch:
        """A beat is due an interval after the claim; at once for a short lease, or a keeper come late."""
        first = record.claimed_at + self._interval_s(record)
        return _Watch(now if record.lease_s < _AT_ONCE_BELOW_S else max(first, now))

    def _early_s(self, record: Record) -> float:
        """By how much a beat may come early, rather than late, at the next scan; not by much of a short interval."""
        return max(SCAN_EVERY_S / 2, min(SCAN_EVERY_S, self._config.beat_interval_s(record.lease_s) / 10))

    def _interval_s(self, record: Record) -> float:
        interval = max(self._config.beat_interval_s(record.lease_s), _SHORTEST_BEAT_S)
        return interval * self._rng.uniform(0.9, 1.0)

    async def _beat(self, berth: Berth, record: Record, watch: _Watch) -> None:
        wait_s = min(self._interval_s(record), _BACKOFF.cap_s)
        try:
            answer, asked_at = await self._gate.through(lambda: self._ask(record))
        except EngineError as error:
            if isinstance(error, EngineDisconnected):
                wait_s = 0.0  # the gate knows how long (faults.md E4)
            log.debug("heartbeat_failed", activity_id=record.activity_id, reason=str(error))
        else:
            if self._judge(berth, record, answer, asked_at):
                wait_s = self._interval_s(record)
        finally:
            watch.is_beating = False
            watch.next_beat_at = self._clock() + wait_s

    async def _ask(self, record: Record) -> tuple[Answer, float]:
        deadline_s = max(1.0, min(_LONGEST_BEAT_CALL_S, record.lease_s / 3))
        async with self._calls:
            asked_at = self._clock()
            answer = await self._engine.heartbeat(record.activity_id, record.worker_id, deadline_s)
        took_s = self._clock() - asked_at
        if took_s > record.lease_s / 3 and record.name not in self._short_leases:
            self._short_leases.add(record.name)
            log.warning("lease_too_short", name=record.name, lease_s=record.lease_s, took_s=took_s)
        return answer, asked_at

    def _judge(self, berth: Berth, record: Record, answer: Answer, asked_at: float) -> bool:
        """Writes the verdict, unless the record has changed since; False when the answer was none."""
        present = berth.record(record.index)
        if present is None or present.sequence != record.sequence or not berth.readable:
            return True
        if present.state is State.DEAD:
            return True  # its settlement has the last word
        match answer.verdict:
            case Verdict.ACCEPTED:
                berth.judge(record, Standing.GOOD, asked_at)
            case Verdict.GONE | Verdict.UNKNOWN:
                self._ledger.conclude(Host.LEASES_LOST, berth, record, Standing.GONE)
                log.warning(
                    "lease_lost", activity_id=record.activity_id, name=record.name, reason=answer.detail
                )
                self._ring(berth.number)
            case Verdict.REFUSED:
                log.error("heartbeat_refused", activity_id=record.activity_id, reason=answer.detail)
                return False
        return True
