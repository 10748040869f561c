"""Heartbeats come first: no other activity makes one later than its lease allows."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import LeasedHost, open_segment

from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineError, EngineMisconfigured, EngineUnavailable
from flowherd.ledger import Cause, Cell, Host, Ledger, RecordWriter, Standing
from flowherd.testing import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

TAKEN = Answer(Verdict.ACCEPTED)


class Beaten(FakeEngine):
    """An engine with its own reply to each activity's heartbeats; records each renewal.

    Attributes:
        tries: heartbeats so far, by activity.

    """

    def __init__(self, meets: Callable[[str], EngineError | float | None]) -> None:
        super().__init__()
        self.meets = meets
        self.renewed: defaultdict[str, list[float]] = defaultdict(list)
        self.tries: Counter[str] = Counter()

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """Raises an error, or waits the given seconds, at most as long as the caller."""
        self.tries[activity_id] += 1
        met = self.meets(activity_id)
        if isinstance(met, EngineError):
            raise met
        if met is not None and met > deadline_s:
            await asyncio.sleep(deadline_s)
            raise EngineUnavailable(f"no complete reply within {deadline_s:g} s", in_doubt=True)
        await asyncio.sleep(met or 0.001)
        self.renewed[activity_id].append(now())
        return TAKEN

    def longest_gap_s(self, activity_id: str, since: float) -> float:
        """The longest time in which the lease was not renewed."""
        times = [since, *self.renewed[activity_id], now()]
        return max(after - before for before, after in itertools.pairwise(times))


def healthy(_: str) -> None:
    """Every beat is answered at once."""


def host_of(engine: FakeEngine, records: int = 500) -> LeasedHost:
    return LeasedHost(ledger=Ledger(processes=2, records=records), engine=engine)


@virtual_time
async def test_n3_slow_settlements_lose_no_living_lease() -> None:
    """N3: `/fail` takes 20 s while 25 activities of a dead process are settled, at a lease of 3 s."""
    engine = Beaten(healthy)
    host = host_of(engine)
    begun = now()

    async def slowly() -> None:
        await asyncio.sleep(20.0)

    engine.script("fail", *[slowly] * 25)
    dead = open_segment(host.ledger, index=1)
    dead.put(Cell.PID, 4711)
    writer = RecordWriter(dead)
    for number in range(25):
        writer.claim(f"dead-{number}", "w-9", "resize", now=now(), lease_s=3.0)
    for number in range(10):
        host.claim(3.0, activity_id=f"a-{number}")
    dead.end(Cause.SIGNAL, 9)
    await asyncio.sleep(30.0)
    assert len(engine.of("fail")) == 25
    assert max(engine.longest_gap_s(f"a-{number}", begun) for number in range(10)) < 1.5


@pytest.mark.parametrize(
    "trouble",
    [
        EngineUnavailable("status 503: busy", retry_after_s=60.0),
        EngineMisconfigured("status 403: no"),
    ],
)
@pytest.mark.parametrize("is_engines", [True, False], ids=["of the engine", "of a proxy"])
@virtual_time
async def test_n5_an_error_on_one_beat_delays_that_beat_by_a_third_of_its_lease_and_no_other(
    trouble: EngineError, *, is_engines: bool
) -> None:
    """N5: one 503 with `Retry-After: 60`, one 403."""
    trouble.is_engines = is_engines
    first = iter([trouble])
    engine = Beaten(lambda activity_id: next(first, None) if activity_id == "a-0" else None)
    host = host_of(engine)
    begun = now()
    for number in range(10):
        host.claim(3.0, activity_id=f"a-{number}")
    await asyncio.sleep(30.0)
    assert engine.longest_gap_s("a-0", begun) <= 2.0 + 0.2
    assert max(engine.longest_gap_s(f"a-{number}", begun) for number in range(1, 10)) <= 1.0 + 0.2


@virtual_time
async def test_unanswered_heartbeats_do_not_delay_answered_ones() -> None:
    """200 rows of the engine are locked, those of long leases too; 200 others meet an error now and then."""

    def met(activity_id: str) -> EngineError | float:
        if activity_id.startswith("locked"):
            return 3600.0
        return busy if engine.tries[activity_id] % 5 == 0 else 0.02

    busy = EngineUnavailable("status 503: busy", retry_after_s=60.0)
    busy.is_engines = True
    engine = Beaten(met)
    host = host_of(engine)
    begun = now()
    for number in range(100):
        host.claim(3.0, activity_id=f"locked-{number}")
    for number in range(100):
        host.claim(60.0, activity_id=f"locked-long-{number}")
    for number in range(200):
        host.claim(3.0, activity_id=f"a-{number}")
    await asyncio.sleep(60.0)
    assert max(engine.longest_gap_s(f"a-{number}", begun) for number in range(200)) < 3.0


@virtual_time
async def test_400_leases_of_3_s_outlive_an_engine_that_is_slow() -> None:
    """A fifth of a second for each beat; with few calls at a time they would come round too late."""
    engine = Beaten(lambda _: 0.2)
    host = host_of(engine)
    begun = now()
    for number in range(400):
        host.claim(3.0, activity_id=f"a-{number}")
    await asyncio.sleep(30.0)
    assert max(engine.longest_gap_s(f"a-{number}", begun) for number in range(400)) < 3.0


@pytest.mark.parametrize("hangs", [False, True])
@virtual_time
async def test_an_outage_is_no_storm_and_its_end_is_found_soon(*, hangs: bool) -> None:
    """E1, M12: 400 leases of 3 s, 20 s without an engine: few tries, one line for each change of state."""
    begun = now()

    def away(_: str) -> EngineError | float | None:
        if not begun + 5.0 <= now() < begun + 25.0:
            return None
        return 3600.0 if hangs else EngineUnavailable("connection refused")

    engine = Beaten(away)
    host = host_of(engine)
    for number in range(400):
        host.claim(3.0, activity_id=f"a-{number}")
    with capture_logs() as logs:
        await asyncio.sleep(5.0)
        before = engine.tries.total()
        await asyncio.sleep(20.0)
        assert engine.tries.total() - before <= 400 + 20.0 / 0.2  # each lease once, and a probe now and then
        await asyncio.sleep(2.0)
    assert all(times[-1] > begun + 25.0 for times in engine.renewed.values())
    said = [line["event"] for line in logs if "engine" in line["event"]]
    assert said == ["engine_unreachable", "engine_reachable_again"]


@virtual_time
async def test_an_answer_that_comes_late_says_nothing_about_the_next_activity_in_the_same_place() -> None:
    """The record was cleared and its place taken again while the beat was under way."""
    host = LeasedHost()
    index, _ = host.claim(activity_id="old")
    new: list[tuple[int, int]] = []
    verdicts = iter([Verdict.GONE, Verdict.ACCEPTED])

    async def taken_meanwhile() -> Verdict:
        host.writer.clear(index)
        new.append(host.claim(activity_id=f"new-{len(new)}"))
        return next(verdicts)

    host.engine.script("heartbeat", taken_meanwhile, taken_meanwhile)
    await asyncio.sleep(21.0)
    assert [place for place, _ in new] == [index]
    assert (host.woken, host.ledger.get(Host.LEASES_LOST)) == ([], 0)
    record = host.segment.record(index)
    assert record is not None
    await asyncio.sleep(18.0)
    host.segment.judge(record, Standing.GOOD, 7.0)
    assert host.segment.last_ok(*new[0]) == 7.0
    await asyncio.sleep(3.0)
    assert len(new) == 2
    assert host.segment.standing(*new[1]) is Standing.UNKNOWN
    assert host.segment._verdicts[index] >> 2 == new[0][1]
