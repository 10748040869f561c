"""Heartbeats: their times, the meaning of replies, and faults."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import LeasedHost

from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineDisconnected, EngineUnavailable, ForeignReply
from flowherd.leases.heartbeats import PLACES
from flowherd.leases.lease_scan import RESTS_FOR_S, SCAN_EVERY_S, ends_the_rest
from flowherd.ledger import Cell, Host, Ledger, Standing
from flowherd.ledger.attempt_history import End
from flowherd.worker.attempt import DETACHED

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("lease_s", "interval_s"), [(60.0, 20.0), (30.0, 10.0), (3.0, 1.0), (86_400.0, 20.0)]
)
@virtual_time
async def test_a_lease_is_beaten_at_a_third_of_its_length_and_at_least_every_20_s(
    lease_s: float, interval_s: float
) -> None:
    """protocol.md R6: the engine's own advice of 30 s is too slow for a lease of 30 s."""
    host = LeasedHost()
    host.claim(lease_s)
    await asyncio.sleep(0.75 * interval_s)
    assert host.beats == []
    await asyncio.sleep(0.25 * interval_s + 0.2)
    assert len(host.beats) == 1
    await asyncio.sleep(9 * interval_s)
    assert 9 <= len(host.beats) <= 12


@virtual_time
async def test_n4_the_time_in_which_the_host_was_frozen_is_told_to_its_workers() -> None:
    """Without a freeze it stays 0, whatever the scans wait for."""
    host = LeasedHost()
    await asyncio.sleep(10.0)
    host.claim(60.0)
    await asyncio.sleep(10.0)
    assert not host.segment.get(Cell.FROZEN_US)
    asyncio.get_running_loop().now += 7.0  # type: ignore[attr-defined]
    await asyncio.sleep(10.0)
    assert host.segment.get(Cell.FROZEN_US) / 1e6 == pytest.approx(7.0, abs=SCAN_EVERY_S)


@virtual_time
async def test_no_beat_waits_for_a_scan_that_comes_after_it_is_due() -> None:
    """A lease of 6.5 s is promised a beat every 2.17 s, not every 2.2 s: scans are 0.2 s apart."""
    host = LeasedHost()
    never = Outage(host, 0.0, 0.0)
    for number in range(50):
        host.claim(6.5, activity_id=f"a-{number}")
        await asyncio.sleep(0.017)
    await asyncio.sleep(30.0)
    gaps = [
        later - earlier for times in never.accepted.values() for earlier, later in itertools.pairwise(times)
    ]
    assert len(gaps) > 500
    assert max(gaps) <= 6.5 / 3


@virtual_time
async def test_intervals_are_jittered() -> None:
    """Leases claimed together must not get their heartbeats together permanently."""
    host = LeasedHost()
    for number in range(100):
        host.claim(activity_id=f"a-{number}")
    await asyncio.sleep(18.6)
    assert 5 < len(host.beats) < 95


@virtual_time
async def test_a_claim_that_comes_to_light_late_is_beaten_at_once() -> None:
    """Its reply was slow: of a lease of 3 s more than 2 are over."""
    host = LeasedHost()
    host.writer.claim("late", "w-1", "resize", now=now() - 2.3, lease_s=3.0)
    await asyncio.sleep(0.3)
    assert host.beats


@virtual_time
async def test_a_configured_interval_shortens_and_never_lengthens() -> None:
    for heartbeat_interval_s, expected in ((2.0, range(9, 13)), (500.0, range(1, 2))):
        host = LeasedHost(heartbeat_interval_s=heartbeat_interval_s)
        host.claim()
        await asyncio.sleep(20.2)
        assert len(host.beats) in expected
        host.running.cancel()


@virtual_time
async def test_claimed_running_and_reporting_records_are_beaten_and_detached_are_not() -> None:
    """Beats go on while an activity waits for a slot and while its result waits to be taken."""
    host = LeasedHost()
    indices = {}
    for state in ("claimed", "running", "reporting", "detached", "cleared"):
        indices[state], _ = host.claim(activity_id=state)
    host.writer.running(indices["running"], now=now(), limit_s=300.0)
    host.writer.reporting(indices["reporting"], None)
    host.writer.stands(indices["detached"], DETACHED)
    host.writer.clear(indices["cleared"])
    await asyncio.sleep(21.0)
    assert sorted(host.beats) == ["claimed", "reporting", "running"]


@virtual_time
async def test_a_beat_carries_the_worker_id_of_the_record_and_its_answer_the_time_it_was_asked() -> None:
    host = LeasedHost()
    index, sequence = host.claim(worker_id="h-1-abc-7")
    await asyncio.sleep(21.0)
    (beat,) = host.engine.of("heartbeat")
    assert beat.worker_id == "h-1-abc-7"
    assert host.segment.standing(index, sequence) is Standing.GOOD
    assert 1017.0 < host.segment.last_ok(index, sequence) <= 1020.2


@pytest.mark.parametrize("verdict", [Verdict.GONE, Verdict.UNKNOWN])
@virtual_time
async def test_a_lost_lease_is_judged_rung_counted_and_said_once(verdict: Verdict) -> None:
    """Faults E12: 409 and 404 mean stop; further heartbeats would disturb the new holder."""
    host = LeasedHost()
    index, sequence = host.claim()
    host.engine.script("heartbeat", Answer(verdict, "claimed by different worker"))
    with capture_logs() as logs:
        await asyncio.sleep(200.0)
    assert host.segment.standing(index, sequence) is Standing.GONE
    assert host.woken == [host.segment.number]
    assert host.ledger.get(Host.LEASES_LOST) == 1
    assert host.beats == ["a-1"]
    assert [entry["event"] for entry in logs] == ["lease_lost"]
    names = {"name", "workflow_id", "activity_key", "process"}
    assert (logs[0]["activity_id"], logs[0]["seen"], names - logs[0].keys()) == ("a-1", 1, set())


@pytest.mark.parametrize("status", [404, 409, 413])
@virtual_time
async def test_a_proxys_answer_to_a_beat_loses_no_lease_and_delays_no_other(status: int) -> None:
    """N7: a foreign 409 is no lost lease; the beat is repeated soon."""
    host = LeasedHost()
    index, sequence = host.claim()
    foreign = ForeignReply(f"status {status}: <html>")
    host.engine.script("heartbeat", foreign, foreign)
    await asyncio.sleep(26.0)
    assert host.beats == ["a-1"] * 3
    assert host.segment.standing(index, sequence) is Standing.GOOD
    assert (host.woken, host.ledger.get(Host.LEASES_LOST)) == ([], 0)


@virtual_time
async def test_an_answer_about_a_record_that_has_changed_since_is_ignored() -> None:
    """The activity was claimed again meanwhile: the 409 went to a worker_id that does not count any more."""
    host = LeasedHost()
    index, _ = host.claim()
    new: list[tuple[int, int]] = []

    async def adopt_meanwhile() -> Verdict:
        new.append(host.writer.move(index, "w-2", now=now(), completion=None))
        return Verdict.GONE

    host.engine.script("heartbeat", adopt_meanwhile)
    await asyncio.sleep(21.0)
    assert host.segment.standing(*new[0]) is Standing.UNKNOWN
    assert host.woken == []
    assert host.ledger.get(Host.LEASES_LOST) == 0


class Outage:
    """What a heartbeat meets: refused from `begins` to `ends`, accepted before and after."""

    def __init__(self, host: LeasedHost, begins: float, ends: float) -> None:
        self.tries = 0
        self.accepted: dict[str, list[float]] = defaultdict(list)
        self._host, self._begins, self._ends = host, begins, ends
        host.engine.script("heartbeat", *[self.answer] * 1000)

    async def answer(self) -> Verdict:
        if self._begins <= now() < self._ends:
            self.tries += 1
            raise EngineUnavailable("connection refused")
        self.accepted[self._host.beats[-1]].append(now())
        return Verdict.ACCEPTED


@virtual_time
async def test_an_outage_is_probed_after_growing_pauses_and_said_once() -> None:
    """Faults E1, E5: one line per change of state, not per try, however many leases wait."""
    host = LeasedHost()
    outage = Outage(host, now() + 15.0, now() + 45.0)
    for number in range(30):
        host.claim(activity_id=f"a-{number}")
    with capture_logs() as logs:
        await asyncio.sleep(50.0)
    assert 10 <= outage.tries <= 16 + 60
    said = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert sorted(said) == ["engine_reachable_again", "engine_unreachable", "polls_go_on", "polls_wait"]


@virtual_time
async def test_an_outage_of_a_third_of_the_lease_loses_no_lease() -> None:
    host = LeasedHost()
    begun = now()
    outage = Outage(host, begun + 30.0, begun + 50.0)
    for number in range(30):
        host.claim(activity_id=f"a-{number}")
    await asyncio.sleep(80.0)
    assert len(outage.accepted) == 30
    for times in outage.accepted.values():
        gaps = [after - before for before, after in itertools.pairwise([begun, *times])]
        assert max(gaps) < 60.0


@virtual_time
async def test_a_beat_on_a_connection_that_had_gone_idle_is_repeated_at_the_next_scan() -> None:
    """Faults E4: not after the pause that a failed beat else is followed by."""
    host = LeasedHost()
    host.claim()
    host.engine.script("heartbeat", EngineDisconnected("closed by the other side", in_doubt=True))
    await asyncio.sleep(20.5)
    assert len(host.beats) == 2


@virtual_time
async def test_a_beat_that_hangs_is_not_sent_again_meanwhile() -> None:
    host = LeasedHost()
    host.claim()
    answered = asyncio.Event()

    async def hang() -> None:
        await answered.wait()

    host.engine.script("heartbeat", hang)
    await asyncio.sleep(100.0)
    assert len(host.beats) == 1
    answered.set()
    await asyncio.sleep(21.0)
    assert len(host.beats) == 2


@pytest.mark.parametrize("lease_s", [1.0, 0.1, 0.0])
@virtual_time
async def test_a_lease_shorter_than_the_round_trip_is_beaten_at_once_and_never_in_a_busy_loop(
    lease_s: float,
) -> None:
    """Faults E22."""
    host = LeasedHost()
    with capture_logs() as logs:

        async def slowly() -> None:
            await asyncio.sleep(0.5)

        host.engine.script("heartbeat", *[slowly] * 1000)
        host.claim(lease_s)
        await asyncio.sleep(0.21)
        assert len(host.beats) == 1
        await asyncio.sleep(10.0)
    assert 10 <= len(host.beats) <= 25
    assert [entry["event"] for entry in logs] == ["lease_too_short"]


@virtual_time
async def test_a_refused_heartbeat_is_no_confirmation() -> None:
    host = LeasedHost()
    index, sequence = host.claim()
    host.engine.script("heartbeat", *[Answer(Verdict.REFUSED, "status 422")] * 9)
    await asyncio.sleep(41.0)
    assert len(host.beats) == 2
    assert host.segment.standing(index, sequence) is Standing.UNKNOWN


@virtual_time
async def test_a_new_keeper_goes_on_from_the_ledger_alone() -> None:
    """A keeper that was killed left its watches behind: the leases are due by their claims."""
    host = LeasedHost()
    host.claim(activity_id="old")
    await asyncio.sleep(15.0)
    host.running.cancel()
    await asyncio.sleep(10.0)
    assert host.beats == []
    host.claim(activity_id="new")
    host.start_keeper()
    await asyncio.sleep(0.5)
    assert host.beats == ["old"]
    await asyncio.sleep(20.0)
    assert sorted(set(host.beats)) == ["new", "old"]


@virtual_time
async def test_a_new_keeper_does_not_beat_what_the_old_one_found_lost() -> None:
    host = LeasedHost()
    index, _ = host.claim()
    record = host.segment.record(index)
    assert record is not None
    host.segment.judge(record, Standing.GONE, 0.0)
    await asyncio.sleep(60.0)
    assert host.beats == []


@virtual_time
async def test_the_keepers_tick_is_fresh_even_while_calls_hang() -> None:
    """The supervisor replaces a keeper whose tick is old."""
    host = LeasedHost()
    host.claim(1.0)
    host.engine.script("heartbeat", asyncio.Event().wait)
    await asyncio.sleep(30.0)
    assert host.ledger.get(Host.KEEPER_TICK) / 1e6 > now() - 0.3


@virtual_time
async def test_the_keeper_rests_while_nothing_is_held_and_says_until_when() -> None:
    """An idle host should cost next to nothing, and a resting keeper must not look late."""
    host = LeasedHost()
    index, _ = host.claim()
    await asyncio.sleep(1.0)
    host.writer.clear(index)
    await asyncio.sleep(1.0)
    ticks = set()
    for _ in range(600):
        await asyncio.sleep(0.1)
        ticks.add(host.ledger.get(Host.KEEPER_TICK))
        assert max(ticks) / 1e6 > now() - 0.01
    assert len(ticks) <= 60.0 / RESTS_FOR_S + 1


@pytest.mark.parametrize("lease_s", [1.0, 1.9, 3.0])
@virtual_time
async def test_a_claim_ends_the_rest(lease_s: float) -> None:
    """A lease of a second would be over before the rest is."""
    host = LeasedHost()
    await asyncio.sleep(10.1)
    host.claim(lease_s)
    await asyncio.sleep(lease_s / 3 + 0.01)
    assert host.beats
    assert not host.ledger.keeper_rests(now())


@pytest.mark.parametrize("lease_s", [10.0, 60.0])
@virtual_time
async def test_a_claim_for_long_is_seen_in_time_and_wakes_nobody(lease_s: float) -> None:
    """A keeper that is woken for each of many short activities takes as much CPU as half of them."""
    host = LeasedHost()
    await asyncio.sleep(10.1)
    rests_until = host.ledger.get(Host.KEEPER_TICK)
    host.claim(lease_s)
    await asyncio.sleep(0.01)
    assert host.ledger.get(Host.KEEPER_TICK) == rests_until
    await asyncio.sleep(min(lease_s / 3, 20.0))
    assert host.beats


@virtual_time
async def test_a_worker_wakes_the_keeper_before_it_forgets_attempts_that_nobody_has_moved() -> None:
    """Its ring holds those of a few seconds, at the rate of light ones not even of one rest."""
    host = LeasedHost()
    await asyncio.sleep(10.1)
    claims = 0
    while not ends_the_rest(host.ledger, host.segment, 60.0, now()):
        index, _ = host.claim(activity_id=f"a-{claims}")
        record = host.segment.record(index)
        assert record is not None
        host.segment.history.add(record, (now(), now(), now(), 0.0), 0, None, End.DELIVERED)
        host.segment.history.resume()
        host.writer.clear(index)
        claims += 1
    assert 100 <= claims <= 200
    host.claim()
    await asyncio.sleep(0.01)
    assert not host.ledger.keeper_rests(now())
    assert len(host.ledger.ended_attempts()) == claims


@virtual_time
async def test_a_claim_without_a_wakeup_is_seen_at_the_end_of_the_rest() -> None:
    """Its worker may have been killed between the two."""
    host = LeasedHost()
    await asyncio.sleep(10.1)
    host.writer.claim("silent", "w-1", "resize", now=now(), lease_s=1.0)
    await asyncio.sleep(RESTS_FOR_S)
    assert host.beats == ["silent"]


@virtual_time
async def test_a_claim_that_comes_while_the_keeper_goes_to_rest_is_seen() -> None:
    """Its worker looked before the rest was announced, and so has not woken the keeper."""
    host = LeasedHost(ledger=Overtaken(processes=1, records=200))
    await asyncio.sleep(10.1)
    host.ledger.overtake = lambda: host.writer.claim("between", "w-1", "resize", now=now(), lease_s=1.0)
    await asyncio.sleep(RESTS_FOR_S + 0.2)
    assert host.beats == ["between"]
    assert host.ledger.overtake is None


class Overtaken(Ledger):
    """Something happens right before a rest is announced."""

    overtake: Callable[[], object] | None = None

    def tick(self, at: float) -> None:
        if at > now() and (overtake := self.overtake) is not None:
            self.overtake = None
            overtake()
        super().tick(at)


@virtual_time
async def test_at_most_64_calls_are_under_way() -> None:
    """A burst of claims must not open a connection each."""
    host = LeasedHost()
    under_way, most = 0, 0

    async def count() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        under_way -= 1

    host.engine.script("heartbeat", *[count] * 200)
    for number in range(150):
        host.claim(1.0, activity_id=f"a-{number}")
    await asyncio.sleep(2.0)
    assert most == PLACES == 64
    assert len(set(host.beats)) == 150


@virtual_time
async def test_a_bug_in_one_beat_does_not_end_the_others() -> None:
    host = LeasedHost()
    host.engine.script("heartbeat", ZeroDivisionError("a bug"))
    host.claim(activity_id="a-1")
    host.claim(activity_id="a-2")
    with capture_logs() as logs:
        await asyncio.sleep(45.0)
    assert host.beats.count("a-1") >= 2
    assert host.beats.count("a-2") >= 2
    assert "internal_error" in {entry["event"] for entry in logs}


@virtual_time
async def test_a_record_that_is_gone_is_forgotten() -> None:
    host = LeasedHost()
    for number in range(50):
        index, _ = host.claim(activity_id=f"a-{number}")
        await asyncio.sleep(0.3)
        host.writer.clear(index)
    await asyncio.sleep(0.3)
    assert host.keeper._heartbeats._watched == {}
    assert host.segment.states[0] == 0


@virtual_time
async def test_a_beat_under_way_does_not_give_back_what_was_cancelled_meanwhile() -> None:
    """The engine answers 200 for a row that has failed: the verdict would be gone before the worker has read it."""
    host = LeasedHost()
    index, sequence = host.claim(3.0)
    [record] = host.segment.records()
    answered = asyncio.Event()

    async def slowly(*_: object) -> Answer:
        host.segment.judge(record, Standing.GONE, 0.0)
        answered.set()
        return Answer(Verdict.ACCEPTED)

    host.engine.heartbeat = slowly  # type: ignore[method-assign]
    await answered.wait()
    await asyncio.sleep(0.1)
    assert host.segment.standing(index, sequence) is Standing.GONE
