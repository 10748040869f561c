"""User code overwrites shared memory: that costs its process, but neither the host nor other processes."""

from __future__ import annotations

import asyncio
import os
import random
import re
import struct
import time
from math import isfinite
from typing import TYPE_CHECKING

import msgspec
import pytest
from brain import Brain
from structlog.testing import capture_logs

from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Cause, Cell, Clock, Ledger, Life, RecordWriter
from flowherd.ledger.activity_cost_table import Where
from flowherd.link.link import Link
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine
from flowherd.worker.sibling_processes import Siblings
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Abort
from flowherd_supervisor.core.health import is_well
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard
from flowherd_supervisor.processes.process_table import Handle
from flowherd_supervisor.shell.ledger_watch import LedgerWatch
from flowherd_supervisor.shell.segment_checks import SegmentChecks
from flowherd_supervisor.shell.status_notifier import polling_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowherd.ledger import Segment

NUMBERS = (0, 1, 2, 255, 2**31, 2**53, 2**63, 2**64 - 1)
FLOATS = tuple(map(float, ("nan", "inf", "-inf", "-1", "1e300", "0.5")))
ROUNDS = 40


class Scribbled:
    """Two workers with all readers of their segments, in one process; user code of the first overwrites memory."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.ledger = Ledger(processes=2, records=6)
        self.checks = SegmentChecks()
        self.watch = LedgerWatch(self.ledger, checks=self.checks)
        self.state = Brain().serve().state
        self.handles = [self._handle(index) for index in (0, 1)]
        self.victim, self.neighbour = (handle.segments[0] for handle in self.handles)
        self.writers = [RecordWriter(segment) for segment in (self.victim, self.neighbour)]
        self.siblings = Siblings(self.ledger.segments, self.neighbour, None)
        self.board = StatusBoard(self.ledger, "http://engine:8080", "0.1.0", os.getpid(), time.monotonic())
        self.metrics = HostMetrics(self.ledger, self.board)
        self.keeper = LeaseKeeper(self.engine, self.engine, self.ledger, WorkerConfig(), lambda _: None)

    def _handle(self, index: int) -> Handle:
        segment = self.ledger.free_segment()
        assert segment is not None
        segment.open(index=index, incarnation=1, now=time.monotonic())
        segment.put(Cell.PID, os.getpid() + index)
        ours, theirs = Link.pair()
        theirs.close()
        handle = Handle(index, 1, os.getpid() + index, -1, ours, (segment,), -1)
        self.checks.opened(handle)
        return handle

    def work(self) -> None:
        """Lets both hold a short lease, due for a heartbeat, and one of them more."""
        self.victim.work.add("resize", Where.LOOP)
        for name, writer in zip(("victim", "neighbour"), self.writers, strict=True):
            index, _ = writer.claim(name, f"{name}-1", "resize", now=time.monotonic(), lease_s=0.5)
            writer.running(index, now=time.monotonic(), limit_s=60.0)
        self.writers[0].claim("waits", "victim-1", "resize", now=time.monotonic(), lease_s=0.5)

    async def read(self) -> list[events.Event]:
        """Runs all readers and returns the supervisor's events."""
        self.keeper.scan()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        now = time.monotonic()
        found = list(self.watch.scan(self.state, self.handles, now, now))
        self.watch.patience_s(self.state)
        assert all(isfinite(seen.next_poll_at + seen.lag_s) for seen in self.siblings.look(time.monotonic()))
        assert self.siblings.me() is not None
        assert isfinite(sum(self.ledger.work().load))
        msgspec.json.encode(self.board.document())
        processes = set(re.findall(rb'process="([^"]*)"', self.metrics.page()))
        assert processes <= {b"0", b"1"}, "a label for every number that somebody writes there"
        self.board.is_ready()
        is_well(self.state, polling_in(self.ledger), time.monotonic())
        self.ledger.free_segments(1)
        repr(self.ledger)
        return found

    async def bury(self) -> None:
        """Reaps and settles the victim's process."""
        self.checks.restore(self.handles[0], self.state)
        self.victim.end(Cause.SIGNAL, 6)
        running = asyncio.ensure_future(self.keeper.run())
        async with asyncio.timeout(10):
            await self.keeper.all_settled()
        running.cancel()

    def close(self) -> None:
        for handle in self.handles:
            handle.link.close()


@pytest.fixture
def host() -> Iterator[Scribbled]:
    one = Scribbled()
    yield one
    one.close()


def scribble(segment: Segment, rng: random.Random) -> None:
    """Overwrites a cell, a record's state, or a few bytes anywhere in the segment."""
    match rng.randrange(4):
        case 0:
            segment.put(rng.choice(list(Cell)), rng.choice(NUMBERS))
        case 1:
            segment.set_clock(rng.choice(list(Clock)), rng.choice(FLOATS))
        case 2:
            segment.states[rng.randrange(segment.capacity)] = rng.randrange(256)
        case _:
            lay = segment.layout
            areas = (
                lay.states,
                lay.verdicts,
                lay.last_ok,
                lay.times,
                lay.bodies,
                lay.journals,
                lay.usage,
            )
            at = segment.offset + rng.choice((0, *areas, *[lay.work] * 4)) + 8 * rng.randrange(96)
            segment.map[at : at + 8] = rng.choice(
                (
                    rng.randbytes(8),
                    struct.pack("<d", rng.choice(FLOATS)),
                    struct.pack("<Q", rng.choice(NUMBERS)),
                )
            )


@pytest.mark.parametrize("seed", range(12))
async def test_an_overwritten_segment_costs_only_its_process(host: Scribbled, seed: int) -> None:
    """Keeper, supervisor, siblings and pages read it; then it is settled, and its counts are dropped."""
    rng = random.Random(seed)
    host.work()
    for _ in range(ROUNDS):
        scribble(host.victim, rng)
        found = await host.read()
        assert not [event for event in found if getattr(event, "process", 0) == 1 and is_an_end(event)]
    beaten = {call.activity_id for call in host.engine.of("heartbeat")}
    assert "neighbour" in beaten
    await host.bury()
    assert host.victim.life is Life.FREE
    assert host.neighbour.life is Life.LIVE
    assert "neighbour" not in {call.activity_id for call in host.engine.of("fail")}
    await host.read()


def is_an_end(event: events.Event) -> bool:
    return isinstance(event, events.SegmentDamaged | events.LimitOverdue | events.WorkerUsedUp)


@pytest.mark.parametrize("seed", range(6))
async def test_overwritten_cells_of_the_host_end_no_process(host: Scribbled, seed: int) -> None:
    """A count may be wrong then, but heartbeats and settlements go on."""
    rng = random.Random(seed)
    host.work()
    first = host.victim.offset - host.victim.number * host.victim.layout.size
    for _ in range(ROUNDS):
        at = 8 * rng.randrange(first // 8) if rng.random() < 0.5 else 8 * rng.randrange(16)
        host.victim.map[at : at + 8] = struct.pack("<Q", rng.choice((*NUMBERS, rng.getrandbits(64))))
        await host.read()
    await host.bury()
    assert host.victim.life is Life.FREE
    assert {"victim", "waits"} <= {call.activity_id for call in host.engine.of("fail")}


def put(cell: Cell, value: int) -> Callable[[Segment], None]:
    return lambda segment: segment.put(cell, value)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (put(Cell.STARTED, 77), "STARTED"),
        (put(Cell.ENDED, 1), "ENDED"),
        (put(Cell.OPENED, 0), "OPENED"),
        (put(Cell.PROCESS, 2**40), "PROCESS"),
        (put(Cell.GUILTY, 3), "GUILTY"),
        (put(Cell.HIGH_WATER, 2**63), "HIGH_WATER"),
        (put(Cell.HIGH_WATER, 0), "the mark is at 0"),
        (put(Cell.COMPLETED, 2**64 - 1), "COMPLETED"),
        (lambda segment: segment.set_clock(Clock.LOOP_LAG_S, float("nan")), "LOOP_LAG_S"),
        (lambda segment: segment.states.__setitem__(0, 99), "record 0 is in state 99"),
        (
            lambda segment: segment.map.__setitem__(segment.offset + segment.layout.bodies + 20, 255),
            "record 0 cannot be read",
        ),
    ],
)
async def test_a_damaged_segment_is_named_and_what_can_be_read_is_settled(
    host: Scribbled, damage: Callable[[Segment], None], named: str
) -> None:
    """A record is torn while it is written, so only the second look counts."""
    host.work()
    assert not [event for event in await host.read() if isinstance(event, events.SegmentDamaged)]
    damage(host.victim)
    found = [*await host.read(), *await host.read()]
    [event, *_] = [event for event in found if isinstance(event, events.SegmentDamaged)]
    assert (event.index, named in event.found) == (0, True), event
    with capture_logs() as logs:
        await host.bury()
    told = {call.activity_id for call in host.engine.of("fail")}
    unreadable = [line["records"] for line in logs if line["event"] == "records_unreadable"]
    assert told == {"waits"} if named.startswith("record 0") else {"victim", "waits"}
    assert unreadable == ([1] if named.startswith("record 0") else [])


def test_a_process_with_a_damaged_segment_is_ended_once_and_counted_as_that() -> None:
    """Its activities are suspect, as after a crash; its stacks are in the log."""
    brain = Brain().serve()
    damaged = events.SegmentDamaged(0, 1, "the cell PROCESS holds 7")
    assert brain.hears(damaged, damaged) == [Abort(0, 1, 0)]
    assert brain.said("segment_damaged") == 1
    brain.hears(events.ChildExited(0, 1, 6, 1), after=100.0)
    assert brain.state.causes == {0: {Cause.DAMAGED: 1}}


def test_a_segment_whose_process_lives_is_never_given_away() -> None:
    """Even if its cells mark it as free."""
    ledger = Ledger(processes=1, records=2)
    segment = ledger.free_segment()
    assert segment is not None
    assert segment not in ledger.free_segments(2, {segment.number})


def test_a_keeper_reads_no_further_than_a_segment_has_records() -> None:
    """A high-water mark of 2**63 would make it copy the whole map five times a second."""
    ledger = Ledger(processes=1, records=2)
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=0, incarnation=1, now=0.0)
    RecordWriter(segment)
    segment.put(Cell.HIGH_WATER, 2**63)
    segment.map[segment.offset + segment.layout.bodies] = 1
    assert ledger.segments.are_at_rest
