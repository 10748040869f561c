"""`max_concurrent` counts over all processes of a host: never too many, in turn, none held by dead ones."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner_kit import Runner
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import child_that

from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.ledger import Cause, Cell, Ledger, RecordWriter
from flowherd.ledger.host_permits import RETRY_S, YIELD_S, HostPermits, RecordLocks
from flowherd.ledger.permits import NotNow, OwnPermits, Permit
from flowherd.ledger.wakeups import Wakeups
from flowherd.sdk.registry import Registry
from flowherd.sdk.run_state import CancelReason
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner_kit import Run


class Locks:
    """Record locks of one process among several that a test keeps in one."""

    def __init__(self, held: dict[int, Locks]) -> None:
        self._held = held

    def try_lock(self, byte: int) -> bool:
        return self._held.setdefault(byte, self) is self

    def unlock(self, byte: int) -> None:
        if self._held.get(byte) is self:
            del self._held[byte]

    def die(self) -> None:
        """What the kernel does."""
        for byte in [byte for byte, owner in self._held.items() if owner is self]:
            del self._held[byte]


class Host:
    """Runners that share permits; their wakeups wake a moment later, as eventfds do."""

    def __init__(self, processes: int, limit: int, *, deaf: bool = False) -> None:
        self.ledger = Ledger(processes=processes, records=8)
        self.held: dict[int, Locks] = {}
        self.locks: list[Locks] = []
        self.runners: list[Runner] = []
        self.running: list[int] = []
        self.begun: list[int] = []
        self.most = 0
        self.woken: list[int] = []
        self._deaf = deaf
        self._runs: list[Run] = []
        for number in range(processes):
            self._add(number, limit)

    def _add(self, number: int, limit: int) -> None:
        segment = self.ledger.segments[number]
        segment.open(index=number, incarnation=1, now=now())
        RecordWriter(segment)
        locks = Locks(self.held)
        permits = HostPermits(locks, self, self.ledger.segments, segment, now)
        registry = Registry()

        async def work(seconds: float) -> None:
            self.running.append(number)
            self.begun.append(number)
            self.most = max(self.most, len(self.running))
            try:
                await asyncio.sleep(seconds)
            finally:
                self.running.remove(number)

        registry.register(work, max_concurrent=limit)
        environment = RunEnvironment(permits=permits)
        self.locks.append(locks)
        self.runners.append(Runner(registry, WorkerConfig(worker_id="w"), ThreadPool(1), environment))

    def wake(self, number: int) -> None:
        self.woken.append(number)
        if not self._deaf:
            asyncio.get_running_loop().call_later(0.001, self.runners[number].permits_changed)

    def start(self, process: int, seconds: float = 1.0) -> Run:
        run = self.runners[process].start(
            make_activity("work", {"seconds": seconds}, number=len(self._runs) + 1)
        )
        self._runs.append(run)
        return run

    async def all_ended(self) -> None:
        for run in self._runs:
            await run.ended()


@virtual_time
async def test_the_processes_of_a_host_run_no_more_than_the_limit_together() -> None:
    """And no permit lies idle: 12 of one second, 3 at a time, take 4 seconds and little more."""
    host = Host(processes=4, limit=3)
    begun = now()
    for number in range(12):
        host.start(number % 4)
    await host.all_ended()
    assert host.most == 3
    assert now() - begun <= 4 * (1 + YIELD_S) + RETRY_S


@virtual_time
async def test_each_process_has_its_turn_however_much_a_sibling_has_waiting() -> None:
    """Process 0 has all the work it could do for a minute; the others' few do not wait for that."""
    host = Host(processes=3, limit=1)
    for _ in range(60):
        host.start(0)
    for number in (1, 2, 1, 2):
        host.start(number)
    await host.all_ended()
    assert {host.begun.index(1), host.begun.index(2)} <= {1, 2, 3}
    assert max(place for place, number in enumerate(host.begun) if number) <= 12


@virtual_time
async def test_a_later_attempt_does_not_overtake() -> None:
    """A new attempt lets a waiting one of a sibling go first."""
    host = Host(processes=3, limit=1)
    first = host.start(0)
    await asyncio.sleep(0.5)
    host.start(1)
    await first.ended()
    host.start(2)
    await host.all_ended()
    assert host.begun == [0, 1, 2]


@virtual_time
async def test_a_process_that_dies_has_given_back_its_permits() -> None:
    """There is no wakeup for it; waiting processes retry by themselves soon."""
    host = Host(processes=2, limit=1)
    host.start(0, seconds=1000.0)
    waiting = host.start(1)
    await asyncio.sleep(5.0)
    host.locks[0].die()
    host.ledger.segments[0].end(Cause.CRASH)
    died = now()
    await waiting.ended()
    assert now() - died <= 1.2 * RETRY_S + 1.0


@virtual_time
async def test_a_sibling_that_was_rung_and_does_not_come_costs_a_moment() -> None:
    """Its loop is blocked: the permit does not wait for it."""
    host = Host(processes=2, limit=1, deaf=True)
    host.start(0)
    host.start(1)
    host.runners[1].worker.executors._permit_queues._timer.cancel()
    begun = now()
    host.start(0)
    await asyncio.sleep(3)
    assert host.begun == [0, 0]
    assert host.woken[0] == 1
    host.runners[1].permits_changed()
    await host.all_ended()
    assert now() - begun <= 4.5


@virtual_time
async def test_an_attempt_that_is_cancelled_while_it_waits_delays_no_other() -> None:
    host = Host(processes=2, limit=1)
    host.start(0)
    cancelled = host.start(1)
    cancelled.on_begin = lambda: host.begun.append(99)
    host.start(1)
    cancelled.cancel(CancelReason.SHUTDOWN)
    await host.all_ended()
    assert host.begun == [0, 1]
    assert host.ledger.segments[1].get(Cell.WAITS_FOR) == 0


@virtual_time
async def test_while_incarnations_with_two_limits_run_the_larger_one_holds() -> None:
    """A reload has changed `max_concurrent`: old and new count the same places."""
    host = Host(processes=1, limit=2)
    host._add(1, 3)
    for number in (0, 1) * 4:
        host.start(number)
    await asyncio.sleep(0.5)
    assert len(host.running) == 3
    await host.all_ended()
    assert host.most == 3


@given(seed=st.integers(0, 2**32), limit=st.integers(1, 3), processes=st.integers(1, 4))
def test_in_any_history_there_are_never_too_many_and_all_have_their_turn(
    seed: int, limit: int, processes: int
) -> None:
    """Attempts of random length come and are cancelled at random times; some processes get no wakeup."""
    rng = random.Random(seed)

    @virtual_time
    async def history() -> None:
        host = Host(processes, limit, deaf=rng.random() < 0.3)
        for _ in range(30):
            run = host.start(rng.randrange(processes), seconds=rng.uniform(0.01, 2.0))
            if rng.random() < 0.1:
                asyncio.get_running_loop().call_later(rng.uniform(0, 2), run.cancel, CancelReason.SHUTDOWN)
            await asyncio.sleep(rng.uniform(0, 0.5))
        await asyncio.wait_for(host.all_ended(), 30 * 2.5)
        assert host.most <= limit
        assert not host.held

    history()


def test_a_process_that_is_alone_counts_by_itself() -> None:
    permits = OwnPermits()
    first = permits.take("work", range(1))
    assert isinstance(first, Permit)
    assert permits.take("work", range(1)) == NotNow()
    assert isinstance(permits.take("other", range(1)), Permit)
    permits.give_back(first)
    assert permits.take("work", range(1)) == first


# Real locks


@pytest.fixture
def wakeups() -> Iterator[Wakeups]:
    wakeups = Wakeups(4)
    yield wakeups
    wakeups.close()


def permits_of(wakeups: Wakeups, number: int, ledger: Ledger) -> HostPermits:
    return HostPermits(
        RecordLocks(wakeups.permits), wakeups, ledger.segments, ledger.segments[number], lambda: 1.0
    )


@pytest.mark.fork
def test_c24_the_kernel_frees_what_a_killed_process_held(wakeups: Wakeups) -> None:
    """No lock can be left locked: neither SIGKILL nor a copy of the process that lives on keeps one."""
    ledger = Ledger(processes=2, records=4)
    hear, say = os.pipe()

    def hold_until_killed() -> None:
        assert permits_of(wakeups, 0, ledger).take("work", range(1)) == Permit("work", 0)
        if (
            not os.fork()
        ):  # as a handler may: the copy has no part in the permit, and closing it costs nothing
            os.close(wakeups.permits)
            os.write(say, b"c")
            os._exit(0)
        os.wait()
        os.write(say, b"h")
        signal.pause()

    ours = permits_of(wakeups, 1, ledger)
    with child_that(hold_until_killed) as pid:
        assert os.read(hear, 1) == b"c"
        assert os.read(hear, 1) == b"h"
        assert isinstance(ours.take("work", range(1)), NotNow)
        assert ours.take("work", range(2)) == Permit("work", 1)
        assert isinstance(ours.take("other", range(1)), Permit)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ours.take("work", range(1)) == Permit("work", 0)
    os.close(hear)
    os.close(say)


def test_workers_that_are_threads_of_one_process_count_together(wakeups: Wakeups) -> None:
    """To the kernel they are one process: what one holds it would grant to the other, and one unlock frees for both."""
    ledger, locks = Ledger(processes=2, records=4), RecordLocks(wakeups.permits)
    one, other = (
        HostPermits(locks, wakeups, ledger.segments, ledger.segments[n], lambda: 1.0) for n in (0, 1)
    )
    first = one.take("work", range(2))
    second = other.take("work", range(2))
    assert (first, second) == (Permit("work", 0), Permit("work", 1))
    assert isinstance(one.take("work", range(2)), NotNow)
    assert isinstance(first, Permit)
    one.give_back(first)
    assert other.take("work", range(2)) == first


def test_a14_a_process_whose_handler_closes_everything_counts_by_itself_and_says_so() -> None:
    """Activities go on; the sibling that replaces it counts with the others again."""
    ledger = Ledger(processes=2, records=4)
    wakeups = Wakeups(1)
    ours = permits_of(wakeups, 0, ledger)
    permit = ours.take("work", range(1))
    wakeups.close()
    assert isinstance(permit, Permit)
    ours.give_back(permit)
    with capture_logs() as logs:
        assert ours.take("work", range(1)) == permit
        assert isinstance(ours.take("work", range(1)), NotNow)
    assert [line["event"] for line in logs] == ["permits_not_shared"]
