"""A complete worker: connects poller, slots, attempts and reporter, and stops them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd.awake_clock import Patience
from flowherd.background import Tasks
from flowherd.client.circuit import Circuit
from flowherd.execution.in_thread import ThreadPool
from flowherd.ledger import Cell, RecordWriter
from flowherd.ledger.crash_history import CrashHistory
from flowherd.link.bounded_messages import stopped
from flowherd.worker.attempt_coordinator import Attempts
from flowherd.worker.executor_choice import Executors
from flowherd.worker.poller import Poller, PollMode
from flowherd.worker.reporter import Reporter
from flowherd.worker.sibling_processes import Siblings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from flowherd.client.engine_protocol import Engine
    from flowherd.execution.moved import MovedActivities
    from flowherd.execution.run_environment import RunEnvironment
    from flowherd.isolates.isolate_pool import Isolates
    from flowherd.ledger import Segment
    from flowherd.ledger.earlier_attempts import SeenRow
    from flowherd.link.messages import Stopped
    from flowherd.own_tasks import OwnTask
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.adopter import Offers

RELEASE_S = 0.8  # for requeueing activities after the drain limit

log = structlog.stdlib.get_logger(__name__)


def _nothing(_: float) -> None:
    """For a worker whose leases nobody keeps."""


def _never() -> bool:
    """Returns False, for a worker that shares its host with no other."""
    return False


@dataclass(slots=True)
class _StopOrder:
    """An order to stop: the time for running activities to end, and for requeueing the rest.

    With `others_go_on` the host does not stop, and what has not begun is adopted instead.
    """

    patience: Patience
    release_s: float
    others_go_on: bool = False


@dataclass(frozen=True, slots=True)
class SharedHost:
    """The resources that a worker shares with the rest of its host.

    Attributes:
        segments: of all workers, None for a worker that sees its own alone.
        crash_history: the host's activities that ran when a process crashed, None for a table of its own.
        seen: the number of times that the host has claimed each activity, None for a row of its own.
        offers: the keeper's offers for adoption, None for a worker without a keeper.
        siblings: the host's other processes, None for a worker that is alone.
        isolates: the isolates for activities with offload="process", None if there are none.
        moved: the activities that were moved to isolates, None where nothing moves.
        rouse_keeper: called once the ledger has claims that the keeper may not have seen, with the shortest lease.
        polls_wait: True when a poll could take what this host still holds (`PollHold`).

    """

    segments: Iterable[Segment] | None = None
    crash_history: CrashHistory | None = None
    seen: SeenRow | None = None
    offers: Offers | None = None
    siblings: Siblings | None = None
    isolates: Isolates | None = None
    moved: MovedActivities | None = None
    rouse_keeper: Callable[[float], None] = _nothing
    polls_wait: Callable[[], bool] = _never


ALONE = SharedHost()


class Worker:
    """Polls an engine and runs activities until stopped; one process can have several workers.

    Args:
        config: this worker's settings; `concurrency` is its initial number of slots.
        registry: the handlers.
        engine: the client; the worker does not close it.
        writer: the record writer of this worker's segment.
        environment: the environment of all attempts.
        host: the shared resources of the host; none for a worker that is alone.

    """

    def __init__(
        self,
        config: WorkerConfig,
        registry: Registry,
        engine: Engine,
        writer: RecordWriter,
        environment: RunEnvironment,
        host: SharedHost = ALONE,
    ) -> None:
        self.isolates, circuit = host.isolates, Circuit()
        self._segment, self._environment = writer.segment, environment
        self._threads = ThreadPool(config.concurrency)
        self._executors = Executors(registry, config, self._threads, environment, host.isolates, host.moved)
        self._reporter = reporter = Reporter(
            engine,
            circuit,
            config.call_deadline_s,
            limit_s=config.activity_timeout_s,
            most_large=max(1, config.concurrency // 4),
        )
        siblings = host.siblings or Siblings.none(writer.segment)
        self._attempts = Attempts(
            config,
            engine,
            writer,
            self._executors,
            reporter,
            environment.meter,
            host.crash_history or CrashHistory.none(),
            host.segments or (writer.segment,),
            self._acknowledged,
            self._slots_changed,
            host.seen,
            host.offers,
        )
        self._poller = Poller(
            config,
            engine,
            writer.segment,
            environment.meter,
            circuit,
            self._attempts,
            siblings,
            host.rouse_keeper,
            host.polls_wait,
        )
        self._tasks = Tasks()
        self._order: _StopOrder | None = None
        self._ordered = asyncio.Event()
        self._segment.put(Cell.LIMIT, config.concurrency)

    def __repr__(self) -> str:
        return f"<Worker {self._attempts!r}>"

    # Orders

    def set_slots(self, limit: int, n: int) -> None:
        """Runs at most `limit` activities from now on, and acknowledges by storing `n` in the segment.

        Activities already claimed may need more for a while; the slots in use are published first, so that no other
        process gets them meanwhile.
        """
        self._attempts.resize(limit)
        usable = self._attempts.slots.usable
        self._threads.resize(max(usable, 1))
        if self.isolates is not None:
            self.isolates.resize(usable)
        self._segment.put(Cell.LIMIT, limit)
        self._segment.put(Cell.LIMIT_APPLIED, n)

    def set_moved(self, shares: Mapping[str, float], kept: Collection[str]) -> None:
        """Sets which activities run in isolates because they block the loop, and which are kept on it."""
        if self._executors.moved is not None:
            self._executors.moved.set(shares, kept)

    def wait_for_order(self) -> None:
        """Neither polls nor adopts before the first order, `quiet` or `resume`."""
        self._poller.set_mode(PollMode.QUIET)

    def quiet(self) -> None:
        """Stops polling; all other work goes on, also what a sibling had not begun when it died."""
        self._poller.set_mode(PollMode.QUIET)
        self._segment.put(Cell.ADOPTS, self._order is None)

    def resume(self) -> None:
        """Starts or resumes polling."""
        self._poller.set_mode(PollMode.POLLING)
        self._segment.put(Cell.ADOPTS, self._order is None)

    def drain(self, within_s: float, *, others_go_on: bool = False) -> None:
        """Stops polling, lets running activities end within `within_s` seconds, and requeues the rest.

        When `others_go_on`, what has not begun then is left to other processes of the host.
        """
        if self._order is None:
            self._give(_StopOrder(Patience(within_s, _now()), RELEASE_S, others_go_on))

    def release(self, within_s: float) -> None:
        """Requeues all activities now, within `within_s` seconds."""
        self._give(_StopOrder(Patience(0.0, _now()), within_s))

    def heed_verdicts(self) -> None:
        """Checks the keeper's verdicts for lost leases; called after a wakeup by the keeper."""
        self._attempts.heed_verdicts()

    def called(self) -> None:
        """Polls at once, and starts attempts that wait for a permit; called after a wakeup by a sibling."""
        self._executors.permits_changed()
        self._poller.called()

    def _give(self, order: _StopOrder) -> None:
        self._order = order
        self._ordered.set()

    @property
    def left_s(self) -> float:
        """Seconds left of the current order to stop, 0 without one."""
        return 0.0 if self._order is None else self._order.patience.left_s(_now())

    # Life

    async def run(self) -> Stopped:
        """Runs until stopped; returns when nothing is owed to the engine, or when time is up."""
        polling = self._tasks.spawn(self._poller.run())
        if self._order is None:
            await self._wait(polling, None)
        if self._order is None:
            polling.result()  # the poller never ends by itself: this raises what ended it
        return await self._stop(polling)

    async def _stop(self, polling: OwnTask[None]) -> Stopped:
        """Stops polling, waits for the poll, lets activities end and be reported, and requeues the rest."""
        self._poller.set_mode(PollMode.STOPPING)
        self._segment.put(Cell.ADOPTS, 0)
        self._environment.shutdown.request()
        if self.isolates is not None:
            self.isolates.send_draining()
        ended = self._tasks.spawn(self._all_ended(polling))
        await self._until_due(ended)
        if not ended.done():
            assert self._order is not None
            release_s = self._order.release_s
            give_up_at = _now() + release_s
            self._reporter.hurry()
            others_go_on = self._order.others_go_on
            await self._attempts.release(last_chance_s=release_s / 4, others_go_on=others_go_on)
            await asyncio.wait({ended}, timeout=give_up_at - _now())
        self._end_polling(polling)
        self._attempts.abandon()
        self._reporter.close()
        self._threads.close()
        if self.isolates is not None:
            self.isolates.close()
        undelivered = self._attempts.undelivered
        await self._tasks.end()
        return stopped(self._attempts.released, undelivered)

    async def aclose(self) -> None:
        """Waits for the last calls to end, once the engine's connections are closed."""
        await self._reporter.aclose()

    def _end_polling(self, polling: OwnTask[None]) -> None:
        if not polling.done():
            log.warning(
                "poll_abandoned",
                worker_id=self._poller.in_flight,
                note="what it may have claimed is handed out again when the leases end",
            )
            polling.end()

    async def _all_ended(self, polling: OwnTask[None]) -> None:
        """Waits for the poll, whose activities are owed too, and then for all attempts."""
        await asyncio.wait({polling})
        await self._attempts.all_ended()

    async def _until_due(self, work: OwnTask[None]) -> None:
        """Waits for `work` until the time of the current order is up; a stricter order shortens the wait."""
        while not work.done():
            assert self._order is not None
            wait_s = self._order.patience.next_wait_s(_now())
            if wait_s <= 0:
                return
            await self._wait(work, wait_s)

    async def _wait(self, work: OwnTask[None], timeout_s: float | None) -> None:
        """Waits for `work`, a new order, or the timeout, whichever is first."""
        self._ordered.clear()
        order = self._tasks.spawn(self._until_ordered())
        await asyncio.wait({work, order}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        order.end()

    async def _until_ordered(self) -> None:
        await self._ordered.wait()

    # Notices from the parts

    def _slots_changed(self) -> None:
        self._poller.slots_changed()

    def _acknowledged(self, workflow_id: str) -> None:
        self._poller.acknowledged(workflow_id)


def _now() -> float:
    return asyncio.get_running_loop().time()
