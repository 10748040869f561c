"""Beats and settles a ledger's records: run by the keeper, or in a thread by `python -m flowherd`; no user code.

It never changes a record: it tells the engine what the ledger says, and writes what the engine answers as verdicts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from flowherd.activity import Failed
from flowherd.config import WorkerConfig
from flowherd.core.retries import Backoff
from flowherd.engine import Answer, Engine, Verdict
from flowherd.errors import EngineError
from flowherd.ledger import HELD, Berth, Cause, Cell, Host, Ledger, Life, Record, Standing, State
from flowherd.statuses import describe_status

SCAN_EVERY_S = 0.2
_SHORTEST_BEAT_S = 0.1  # a lease shorter than the round trip must not become a busy loop (faults.md E22)
_SETTLE_AT_LEAST_S = 300.0  # how long a settlement is tried: the fence makes a late one harmless
_AT_ONCE = 16  # calls under way, so that a burst never opens a connection per activity

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """What is remembered of one record between scans."""

    next_beat_at: float
    last_ok: float
    beating: bool = False
    failures: int = 0


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
        self._rng = random.Random()  # noqa: S311 - jitter, no secret
        self._watched: dict[tuple[int, int], _Watch] = {}
        self._settling: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = asyncio.Semaphore(_AT_ONCE)
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Scans for ever, at least five times a second."""
        while True:
            self.scan()
            self.woken.clear()
            try:
                async with asyncio.timeout(SCAN_EVERY_S):
                    await self.woken.wait()
            except TimeoutError:
                continue

    @property
    def settled(self) -> bool:
        """Whether no ended berth waits for its settlement any more."""
        return not any(berth.life is Life.ENDED for berth in self._ledger.berths)

    def scan(self) -> None:
        """Starts the beats that are due and the settlement of berths that have ended."""
        now = self._clock()
        self._ledger.put(Host.KEEPER_TICK, int(now * 1e6))
        seen: set[tuple[int, int]] = set()
        for berth in self._ledger.berths:
            match berth.life:
                case Life.LIVE:
                    for record in berth.records():
                        if record.state in HELD:
                            seen.add((berth.number, record.sequence))
                            self._beat_if_due(berth, record, now)
                case Life.ENDED if berth.number not in self._settling:
                    self._settling[berth.number] = self._spawn(self._settle(berth))
                case _:
                    pass
        for key in self._watched.keys() - seen:
            del self._watched[key]

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Heartbeats

    def _beat_if_due(self, berth: Berth, record: Record, now: float) -> None:
        key = (berth.number, record.sequence)
        watch = self._watched.get(key)
        if watch is None:
            first = record.claimed_at + self._interval_s(record)
            watch = self._watched[key] = _Watch(max(first, now), record.claimed_at)
        if not watch.beating and now >= watch.next_beat_at - SCAN_EVERY_S / 2:
            watch.beating = True
            self._spawn(self._beat(berth, record, watch))

    def _interval_s(self, record: Record) -> float:
        interval = max(self._config.beat_interval_s(record.lease_s), _SHORTEST_BEAT_S)
        return interval * self._rng.uniform(0.9, 1.0)

    async def _beat(self, berth: Berth, record: Record, watch: _Watch) -> None:
        asked_at = self._clock()
        try:
            async with self._calls:
                answer = await self._engine.heartbeat(
                    record.activity_id, record.worker_id, self._deadline_s(record)
                )
        except EngineError as error:
            watch.failures += 1
            wait_s = min(self._interval_s(record), 0.25 * 2 ** min(watch.failures, 3))
            if watch.failures == 1:
                log.warning("heartbeat_failed", activity_id=record.activity_id, reason=str(error))
        else:
            watch.failures = 0
            wait_s = self._interval_s(record)
            self._judge(berth, record, answer, watch, asked_at)
        finally:
            watch.beating = False
        watch.next_beat_at = self._clock() + wait_s

    def _deadline_s(self, record: Record) -> float:
        return max(1.0, min(self._config.call_deadline_s, record.lease_s / 2))

    def _judge(self, berth: Berth, record: Record, answer: Answer, watch: _Watch, asked_at: float) -> None:
        """Writes the verdict, unless the record has changed since the beat was sent."""
        present = berth.record(record.index)
        if present is None or present.sequence != record.sequence or not berth.readable:
            return
        if answer.verdict in {Verdict.GONE, Verdict.UNKNOWN}:
            berth.judge(record, Standing.GONE, watch.last_ok)
            self._ledger.put(Host.LEASES_LOST, self._ledger.get(Host.LEASES_LOST) + 1)
            log.warning("lease_lost", activity_id=record.activity_id, name=record.name, reason=answer.detail)
            self._ring(berth.number)
            return
        watch.last_ok = asked_at
        berth.judge(record, Standing.GOOD, asked_at)

    # Settlement

    async def _settle(self, berth: Berth) -> None:
        """Gives an ended incarnation's work back, or delivers what it had finished; then frees the berth."""
        try:
            owed = [record for record in berth.records() if record.state in HELD]
            await asyncio.gather(*(self._settle_one(berth, record) for record in owed))
        finally:
            self._ledger.absorb(berth)
            berth.settled()
            del self._settling[berth.number]

    async def _settle_one(self, berth: Berth, record: Record) -> None:
        give_up_at = self._clock() + max(record.lease_s, _SETTLE_AT_LEAST_S)
        backoff, failures = Backoff(cap_s=5.0), 0
        while True:
            try:
                async with self._calls:
                    done = await self._tell_end(berth, record)
            except EngineError as error:
                failures += 1
                if self._clock() > give_up_at:
                    log.error("settlement_given_up", activity_id=record.activity_id, reason=str(error))
                    return
                await asyncio.sleep(backoff.delay_s(failures, self._rng))
            else:
                self._ledger.put(Host.SETTLED, self._ledger.get(Host.SETTLED) + 1)
                log.warning(
                    "activity_settled", activity_id=record.activity_id, name=record.name, outcome=done,
                    process=berth.get(Cell.SEAT), pid=berth.get(Cell.PID),
                )  # fmt: skip
                return

    async def _tell_end(self, berth: Berth, record: Record) -> str:
        """One try; says in a word or two what became of the activity."""
        kept = berth.journal(record.index) if record.state is State.REPORTING else None
        if kept is not None:
            answer = await self._engine.complete(record.activity_id, kept, self._config.call_deadline_s)
            if answer.verdict is not Verdict.REFUSED:
                return (
                    "its kept result was delivered"
                    if answer.verdict is Verdict.ACCEPTED
                    else "already settled"
                )
        body = self._engine.encode_failure(record.worker_id, _failure(berth, record))
        answer = await self._engine.fail(record.activity_id, body, self._config.call_deadline_s)
        return (
            "handed back"
            if answer.verdict is Verdict.ACCEPTED
            else f"already settled ({answer.verdict.value})"
        )


def _failure(berth: Berth, record: Record) -> Failed:
    """The cause the supervisor wrote, as the engine's users shall read it (design §5, cause → code)."""
    doing = {State.CLAIMED: "waited for a slot", State.REPORTING: "was being reported"}.get(
        record.state, "ran"
    )
    who = f"worker process {berth.get(Cell.SEAT)} (pid {berth.get(Cell.PID)})"
    if berth.get(Cell.CAUSE) == Cause.STOPPED:
        return Failed("WORKER_SHUTDOWN", f"{who} was stopped while the activity {doing}", retryable=True)
    how = describe_status(berth.get(Cell.EXIT_STATUS))
    return Failed("WORKER_CRASHED", f"{who} {how} while the activity {doing}", retryable=True)
