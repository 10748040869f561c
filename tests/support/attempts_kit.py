"""A worker's table of attempts with scripted handlers and an engine in memory; asserts invariants."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from virtual_time import now
from worker_kit import open_segment

from flowherd import Registry
from flowherd.client.circuit import Circuit
from flowherd.client.engine_protocol import Batch
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.loop_meter import LoopMeter
from flowherd.execution.run_environment import RunEnvironment
from flowherd.isolates.isolated_attempt import IsolatedAttempt
from flowherd.ledger import Cell, Claim, Handler, Ledger, RecordWriter, Standing
from flowherd.ledger.attempt_history import End, decoded
from flowherd.ledger.permits import OwnPermits
from flowherd.own_tasks import OwnTask
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine, make_activity
from flowherd.worker.adopter import Offers
from flowherd.worker.attempt_coordinator import Attempts
from flowherd.worker.executor_choice import Executors
from flowherd.worker.reporter import Reporter
from flowherd.worker.worker import Worker

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Activity, Outcome
    from flowherd.ledger import Record
    from flowherd.ledger.attempt_history import EndedAttempt
    from flowherd.ledger.permits import Permits
    from flowherd.link.messages import Stopped
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class State(Enum):
    """Where a record stands, in the words of the tests."""

    CLAIMED = "claimed"
    RUNNING = "running"
    REPORTING = "reporting"
    DETACHED = "detached"
    ISOLATED = "apart"
    CRASHED = "dead"


def state_of(record: Record) -> State:
    """Maps handler and claim to one `State`."""
    if record.claim is not Claim.HELD:
        return {Claim.REPORTING: State.REPORTING, Claim.CRASHED: State.CRASHED, Claim.CLOSED: State.DETACHED}[
            record.claim
        ]
    if record.handler <= Handler.ADMITTED:
        return State.CLAIMED
    return State.ISOLATED if record.is_isolated else State.RUNNING


class Handlers:
    """Handlers that run until `end(activity_id)`; `begun` counts their starts by activity id."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.ends: dict[str, asyncio.Event] = {}
        self.registry = Registry()
        for handler in (self.work, self.fail, self.stubborn):
            self.registry.register(_async_function(handler))

    def end(self, *activity_ids: str) -> None:
        for activity_id in activity_ids:
            self.ends.setdefault(activity_id, asyncio.Event()).set()

    @contextlib.contextmanager
    def _noted(self, activity_id: str):
        self.begun[activity_id] += 1
        self.running[activity_id] += 1
        try:
            yield self.ends.setdefault(activity_id, asyncio.Event())
        finally:
            self.running[activity_id] -= 1

    async def work(self, activity_id: str) -> dict[str, Any]:
        """Completes after `end`."""
        with self._noted(activity_id) as end:
            await end.wait()
            return {"by": activity_id}

    async def fail(self, activity_id: str) -> None:
        """Fails after `end`."""
        with self._noted(activity_id) as end:
            await end.wait()
            raise ValueError("told to fail")

    async def stubborn(self, activity_id: str) -> dict[str, Any]:
        """Completes after `end` and ignores cancellation."""
        with self._noted(activity_id) as end:
            while not end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await end.wait()
            return {"by": activity_id}


def _async_function(method: Any) -> Any:
    name = method.__name__

    async def handler(ctx: Any, params: dict[str, Any]) -> Any:
        del params
        return await method(ctx.activity_id)

    handler.__name__ = name
    return handler


class Isolates:
    """A fake pool of isolates without processes: each ends when a test gives it an outcome."""

    def __init__(self) -> None:
        self.runs: dict[str, IsolatedAttempt] = {}

    segment: Any = None  # not needed by these tests

    def tell(self, outlet: Any, runs_elsewhere: Any = None) -> None:
        self._outlet = outlet

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        run = self.runs[attempt.id] = IsolatedAttempt(attempt, definition, self._outlet, self.segment)
        run.begin(lambda: None)

    def stop(self, attempt: Attempt) -> None:
        attempt.handle()

    def end(self, activity_id: str, outcome: Outcome) -> None:
        self.runs.pop(activity_id).finish(outcome)


class Table:
    """`Attempts` with its collaborators."""

    def __init__(
        self,
        *,
        slots: int = 2,
        records: int = 20,
        isolates: Isolates | None = None,
        permits: Permits | None = None,
        engine: FakeEngine | None = None,
        adopts: bool = False,
        **settings: Any,
    ) -> None:
        self.engine = engine or FakeEngine()
        self.ledger = Ledger(processes=1, records=records)
        self.segment = open_segment(self.ledger)
        self.writer = RecordWriter(self.segment)
        self.handlers = Handlers()
        self.acknowledged = 0
        config = WorkerConfig(worker_id="t", concurrency=slots, **settings)
        self.isolates = isolates or Isolates()
        self.meter = LoopMeter()
        self.executors = executors = Executors(
            self.handlers.registry,
            config,
            ThreadPool(1),
            RunEnvironment(meter=self.meter, permits=permits or OwnPermits()),
            isolates,  # type: ignore[arg-type]
        )
        self.circuit = Circuit()
        self.reporter = Reporter(self.engine, self.circuit, config.call_deadline_s)
        self.attempts = Attempts(
            config,
            self.engine,
            self.writer,
            executors,
            self.reporter,
            self.meter,
            self.ledger.crash_history,
            self.ledger.segments,
            self._acknowledge,
            lambda: None,
            offers=Offers(self.ledger, self.segment, lambda: None) if adopts else None,
        )
        self.segment.put(Cell.LIMIT, slots)
        self.segment.put(Cell.ADOPTS, adopts)
        self.slots = self.attempts.slots
        self._polls = 0

    def _acknowledge(self, workflow_id: str) -> None:
        self.acknowledged += 1

    def bring(self, *activities: Activity, poll: str | None = None) -> str:
        """Simulates a poll that returns `activities`; returns its worker_id."""
        self._polls += 1
        worker_id = poll or f"t-{self._polls}"
        batch = Batch([replace(activity, worker_id=worker_id) for activity in activities])
        reserved = self.attempts.reserve(max(1, len(activities)))
        self.attempts.polled(reserved, batch, asked_at=now())
        return worker_id

    def states(self) -> dict[str, State]:
        """Returns the states in the ledger by activity id."""
        return {record.activity_id: state_of(record) for record in self.segment.records()}

    def attempt(self, activity_id: str) -> Attempt:
        """Returns the attempt that is still owed to the engine."""
        return self.attempts._table._owed[activity_id]

    def lose(self, activity_id: str) -> None:
        """Marks a lease as lost, as the keeper does, and wakes the worker."""
        for record in self.segment.records():
            if record.activity_id == activity_id:
                self.segment.judge(record, Standing.GONE, 0.0)
        self.attempts.heed_verdicts()

    def told(self, verb: str) -> list[tuple[str, str]]:
        """Returns activity id and worker_id of each call of a verb."""
        return [(call.activity_id, call.worker_id) for call in self.engine.of(verb)]

    def count(self, cell: Cell) -> int:
        return self.segment.get(cell)

    def ended(self) -> list[EndedAttempt]:
        """Returns the history's ended attempts, failures with their messages."""
        attempts, failures = decoded(self.ledger.ended_attempts()), decoded(self.ledger.ended_failures())
        words = {one.sequence: one for one in failures}
        return [words.get(one.sequence, one) for one in attempts]

    def check(self) -> None:
        """Asserts the invariants."""
        records = list(self.segment.records())
        running = self.count(Cell.RUNNING)
        assert 0 <= running <= 10**6
        at_work = sum(self.handlers.running.values()) + len(self.isolates.runs)
        assert running == at_work, (running, self.handlers.running, self.isolates.runs)
        assert self.slots.held >= running
        pages = len(self.writer._moved)  # of attempts that were claimed again
        assert self.writer.free + len(records) + pages == self.segment.capacity
        held = [r for r in records if r.is_owed]
        assert len({r.activity_id for r in held}) == len(held)
        over = sum(self.count(cell) for cell in (Cell.COMPLETED, Cell.FAILED, Cell.LOST))
        assert sum(one.end is not End.SETTLED for one in self.ended()) <= over
        owed = len(held) + self.attempts._table._rejecting
        assert self.count(Cell.CLAIMED) == over + owed

    async def rest(self) -> None:
        """Runs the loop until only time can change anything."""
        for _ in range(30):
            await asyncio.sleep(0)


def an_activity(activity_id: str = "a-1", name: str = "work", **fields: Any) -> Activity:
    return make_activity(name, activity_id=activity_id, **fields)


def surplus(*activity_ids: str) -> Any:
    """Builds a poll step that returns these activities whatever was asked for."""

    async def step() -> Batch:
        return Batch([replace(an_activity(id_), worker_id="p-1") for id_ in activity_ids])

    return step


class Rig:
    """A running worker with scripted handlers."""

    def __init__(self, *, slots: int = 4, **settings: Any) -> None:
        self.engine = FakeEngine()
        self.segment = open_segment(Ledger(processes=1, records=60))
        self.handlers = Handlers()
        self.environment = RunEnvironment()
        config = WorkerConfig(worker_id="host-1", concurrency=slots, **settings)
        writer = RecordWriter(self.segment)
        self.worker = Worker(config, self.handlers.registry, self.engine, writer, self.environment)
        self.task = OwnTask(self.worker.run())

    async def begin(self, *activity_ids: str, name: str = "work") -> None:
        """Offers activities and returns when their handlers run."""
        self.engine.offer(*(an_activity(id_, name) for id_ in activity_ids))
        await asyncio.sleep(0.5)  # virtual time: see virtual_time.py
        assert all(self.handlers.running[id_] for id_ in activity_ids)

    async def stopped(self) -> tuple[Stopped, float]:
        """Stops the worker; returns its last message and the seconds it took."""
        begun = now()
        return await self.task, now() - begun

    def codes(self) -> dict[str, str]:
        return {call.activity_id: call.body["error"]["code"] for call in self.engine.of("fail")}

    def states(self) -> list[State]:
        return [state_of(record) for record in self.segment.records()]
