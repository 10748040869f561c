"""After an outage no process polls what another one of the host still holds (faults.md N6)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from virtual_time import VirtualTimeLoop, now, virtual_time
from worker_kit import LeasedHost, open_segment

from flowherd import Registry
from flowherd.client.engine_protocol import Answer, Batch, Verdict
from flowherd.errors import EngineError, EngineUnavailable
from flowherd.execution.run_environment import RunEnvironment
from flowherd.leases.lease_scan import SCAN_EVERY_S, LeaseKeeper
from flowherd.leases.poll_hold import ANSWERED_FOR_S, Answers, PollHold, unconfirmed
from flowherd.ledger import Cause, Cell, Host, Ledger, RecordWriter
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine, make_activity
from flowherd.worker.worker import SharedHost, Worker

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Activity


def test_a_lease_is_in_doubt_when_two_thirds_of_it_have_passed_without_an_answer() -> None:
    """Leases under 2 s lapse between two scans and do not stop polls."""
    assert unconfirmed([(3.0, 100.0)], 102.0) == 0
    assert unconfirmed([(3.0, 100.0)], 102.1) == 1
    assert unconfirmed([(3.0, 100.0), (60.0, 100.0), (1.9, 0.0), (2.0, 0.0)], 102.1) == 2


def test_the_engine_answers_as_long_as_no_pause_is_as_long_as_an_outage_that_matters() -> None:
    answers = Answers()
    assert answers.for_s(100.0, 3.0) == 0.0
    for tenth in range(1000, 1100):
        answers.heard(tenth / 10, 3.0)
    assert answers.for_s(110.0, 3.0) == pytest.approx(10.0)
    assert answers.for_s(112.1, 3.0) == 0.0
    answers.heard(112.2, 3.0)
    assert answers.for_s(112.3, 3.0) == pytest.approx(0.1)


def test_polls_wait_while_a_lease_is_in_doubt() -> None:
    ledger = Ledger(processes=1, records=4)
    hold = PollHold(ledger)
    assert not hold.holds(100.0), "where there is no keeper nobody is waited for"
    ledger.tick(100.0)
    assert not hold.holds(100.1)
    ledger.put(Host.UNCONFIRMED, 3)
    assert hold.holds(100.1)
    ledger.put(Host.UNCONFIRMED, 0)
    ledger.tick(200.0)  # it rests
    assert not hold.holds(150.0)


@pytest.mark.parametrize("count", [0, 3])
def test_a_late_keeper_is_waited_for_while_this_process_looks_20_times(count: int) -> None:
    """N4: a process that was frozen, too, must not judge it; a frozen or dead keeper does not stop polls for long."""
    ledger = Ledger(processes=1, records=4)
    hold = PollHold(ledger)
    ledger.tick(100.0)
    ledger.put(Host.UNCONFIRMED, count)
    assert hold.holds(500.0)
    assert hold.holds(500.0), "the same look"
    held = [hold.holds(500.0 + look / 10) for look in range(1, 30)]
    assert held == [True] * 19 + [False] * 10
    ledger.tick(503.0)
    assert hold.holds(503.1) is (count > 0)


def failing(error: EngineError, *, is_engines: bool) -> EngineError:
    error.is_engines = is_engines
    return error


class Doubted(LeasedHost):
    """A host that holds one lease of 3 s, of which every beat meets an error from a second on."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(ledger=Ledger(processes=2, records=60))
        self.claim(3.0)
        self.engine.script("heartbeat", Verdict.ACCEPTED, *[error] * 1000)

    @property
    def unconfirmed(self) -> int:
        return self.ledger.get(Host.UNCONFIRMED)


@virtual_time
async def test_polls_wait_for_a_lease_that_nothing_answers_and_go_on_when_something_does() -> None:
    host = Doubted(EngineUnavailable("connection refused"))
    with capture_logs() as logs:
        await asyncio.sleep(2.8)
        assert host.unconfirmed == 0
        await asyncio.sleep(0.8)
        assert host.unconfirmed == 1
        host.engine._scripts["heartbeat"].clear()
        await asyncio.sleep(0.7 + SCAN_EVERY_S)
        assert host.unconfirmed == 0
    said = [line["event"] for line in logs if "polls" in line["event"]]
    assert said == ["polls_wait", "polls_go_on"]


@pytest.mark.parametrize("is_engines", [True, False])
@virtual_time
async def test_an_error_of_the_engine_is_an_answer_and_one_of_a_proxy_is_none(*, is_engines: bool) -> None:
    """A heartbeat that always gets 500 does not stop polls; a proxy replies 502 while the engine is away."""
    host = Doubted(failing(EngineUnavailable("status 500"), is_engines=is_engines))
    most = 0
    for _ in range(100):
        await asyncio.sleep(0.1)
        most = max(most, host.unconfirmed)
    assert (most > 0) is not is_engines


@virtual_time
async def test_what_an_ended_process_held_is_in_doubt_too_until_it_is_settled() -> None:
    host = LeasedHost()
    host.claim(3.0)
    host.segment.put(Cell.PID, 4711)
    host.engine.script("fail", *[EngineUnavailable("connection refused")] * 12)
    host.segment.end(Cause.SIGNAL, 9)
    await asyncio.sleep(2.3)
    assert host.ledger.get(Host.UNCONFIRMED) == 1
    await host.keeper.all_settled()
    await asyncio.sleep(2 * SCAN_EVERY_S)
    assert host.ledger.get(Host.UNCONFIRMED) == 0


@virtual_time
async def test_one_lease_that_is_never_answered_keeps_polls_waiting_for_10_s_at_most() -> None:
    """Others are answered all the time: this is no outage."""
    host = Doubted(EngineUnavailable("no complete reply within 1 s"))
    others = FakeEngine()

    async def heartbeat(activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        return await (host.engine if activity_id == "a-1" else others).heartbeat(
            activity_id, worker_id, deadline_s
        )

    host.keeper._heartbeats._engine = type("Split", (), {"heartbeat": staticmethod(heartbeat)})()  # type: ignore[assignment]
    for number in range(20):
        host.claim(3.0, activity_id=f"b-{number}")
    waited = 0
    for _ in range(300):
        await asyncio.sleep(0.1)
        waited += host.unconfirmed > 0
    assert 0 < waited <= 10 * (ANSWERED_FOR_S + 1)
    assert host.unconfirmed == 0


# A host and an engine in virtual time


@dataclass(slots=True)
class _Row:
    activity: Activity
    holder: str = ""
    lease_ends_at: float = 0.0
    claims: int = 0
    is_done: bool = False


class Leasing(FakeEngine):
    """An engine with leases of 3 s: a heartbeat renews a lapsed lease that was not taken.

    Attributes:
        away_until: from then on it is back as soon as a worker calls: the keeper finds out after it.
        refuses: activities of which every completion gets 500.
        no_poll: set while no poll is under way.

    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, _Row] = {}
        self.away_until = 0.0
        self.refuses: set[str] = set()
        self.no_poll = asyncio.Event()
        self._polls = 0

    def queue(self, *activity_ids: str, name: str = "work") -> None:
        for activity_id in activity_ids:
            self.rows[activity_id] = _Row(make_activity(name, activity_id=activity_id))

    async def _reach(self, *, is_beat: bool = False) -> None:
        if now() >= self.away_until and not is_beat:
            self.away_until = 0.0
        if self.away_until:
            raise EngineUnavailable("connection refused")
        await asyncio.sleep(0.002)

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """New work first, then what has lapsed."""
        del worker_type, deadline_s
        self._polls += 1
        self.no_poll.clear()
        try:
            await self._reach()
        finally:
            self._polls -= 1
            if not self._polls:
                self.no_poll.set()
        free = [row for row in self.rows.values() if not row.is_done and row.lease_ends_at < now()]
        for row in free[:limit]:
            row.holder, row.lease_ends_at, row.claims = worker_id, now() + 3.0, row.claims + 1
        return Batch([replace(row.activity, worker_id=worker_id) for row in free[:limit]])

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """Renews."""
        del deadline_s
        await self._reach(is_beat=True)
        row = self.rows[activity_id]
        if row.holder != worker_id:
            return Answer(Verdict.GONE, "claimed by different worker")
        row.lease_ends_at = now() + 3.0
        return Answer(Verdict.ACCEPTED)

    async def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Ends it, if it is still the caller's."""
        del body, deadline_s
        await self._reach()
        if activity_id in self.refuses:
            raise failing(EngineUnavailable("status 500"), is_engines=True)
        self.rows[activity_id].is_done = True
        return Answer(Verdict.ACCEPTED)


class SmallHost:
    """Workers that share a ledger, and their keeper."""

    def __init__(self, engine: Leasing, processes: int = 2, *, obeys: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.ledger = Ledger(processes=processes, records=60)
        config = WorkerConfig(concurrency=8, default_lease_s=3.0)
        self.keeper = LeaseKeeper(engine, engine, self.ledger, config, self._wake, loop.time)
        self.workers: dict[int, Worker] = {}
        for index in range(processes):
            segment = open_segment(self.ledger, index=index)
            hold = PollHold(self.ledger)
            host = SharedHost(
                rouse_keeper=lambda _: self.keeper.woken.set(),
                polls_wait=lambda hold=hold: obeys and hold.holds(now()),  # type: ignore[misc]
            )
            registry = Registry()
            registry.register(_work)
            registry.register(_work_longer)
            self.workers[segment.number] = Worker(
                config, registry, engine, RecordWriter(segment), RunEnvironment(), host
            )
        self.tasks = [loop.create_task(worker.run()) for worker in self.workers.values()]
        self.tasks.append(loop.create_task(self.keeper.run()))

    def _wake(self, segment: int) -> None:
        self.workers[segment].heed_verdicts()


async def _work() -> dict[str, Any]:
    await asyncio.sleep(2.0)
    return {}


async def _work_longer() -> dict[str, Any]:
    await asyncio.sleep(9.0)
    return {}


_work.__name__ = "work"
_work_longer.__name__ = "work_longer"


async def _outage(seed: int, *, obeys: bool) -> Counter[str]:
    """16 activities of 2 s on two processes, an outage of 5 to 10 s amid them; what was claimed more than once."""
    rng = random.Random(seed)
    engine = Leasing()
    SmallHost(engine, obeys=obeys)
    await asyncio.sleep(rng.uniform(0.0, 3.0))
    engine.queue(*(f"a-{number}" for number in range(16)))
    await asyncio.sleep(rng.uniform(0.3, 1.9))
    engine.away_until = now() + rng.uniform(5.0, 10.0)
    await asyncio.sleep(35.0)
    assert all(row.is_done for row in engine.rows.values()), f"seed {seed}"
    return Counter({id_: row.claims - 1 for id_, row in engine.rows.items() if row.claims > 1})


@pytest.mark.parametrize("seed", range(20))
@virtual_time
async def test_n6_nothing_runs_twice_after_an_outage(seed: int) -> None:
    """N6: each process has a circuit of its own, and finds out by itself that the engine is back."""
    assert not await _outage(seed, obeys=True)


@virtual_time
async def test_without_the_rule_most_of_these_outages_make_something_run_twice() -> None:
    """Else the test before would show nothing."""
    again = [sum((await _outage(seed, obeys=False)).values()) for seed in range(6)]
    assert sum(map(bool, again)) >= 3, again


@pytest.mark.parametrize("seed", range(20))
@virtual_time
async def test_nothing_runs_twice_after_everything_has_stood_still(seed: int) -> None:
    """N4, N6: for longer than a lease; the first process to wake must not poll before leases are renewed.

    A poll that is under way already cannot be called back.
    """
    rng = random.Random(seed)
    engine = Leasing()
    SmallHost(engine)
    engine.queue(*(f"a-{number}" for number in range(8)), name="work_longer")
    await asyncio.sleep(rng.uniform(2.2, 4.0))
    await engine.no_poll.wait()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.now += rng.uniform(2.5, 6.0)
    await asyncio.sleep(10.0)
    assert {row.claims for row in engine.rows.values()} == {1}
    assert all(row.is_done for row in engine.rows.values())


@virtual_time
async def test_an_output_that_is_never_taken_does_not_stop_polls() -> None:
    """It always gets 500, and its lease is renewed as all others are."""
    engine = Leasing()
    engine.refuses.add("never")
    SmallHost(engine)
    engine.queue("never")
    await asyncio.sleep(60.0)
    engine.queue("later")
    await asyncio.sleep(15.0)
    assert engine.rows["later"].is_done
    assert engine.rows["never"].claims == 1
