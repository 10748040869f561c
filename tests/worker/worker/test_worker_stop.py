"""The end of a worker: it awaits the poll, lets work end, delivers, and gives back the rest."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from attempts_kit import Rig, State, an_activity, surplus
from structlog.testing import capture_logs
from virtual_time import VirtualTimeLoop, virtual_time

from flowherd.errors import EngineUnavailable
from flowherd.ledger import Cell
from flowherd.link.messages import Stopped

AWAY = EngineUnavailable("connection refused")


class LimitOnly:
    """Isolates of which only the limit is of interest."""

    limit = -1

    def resize(self, limit: int) -> None:
        self.limit = limit

    def send_draining(self) -> None:
        """The link has no receiver."""

    def close(self) -> None:
        """Nothing is there to end."""


@virtual_time
async def test_a_drain_lets_running_work_end_and_takes_no_more() -> None:
    """Faults P2, P3: stop polling, run to the end, deliver, exit."""
    rig = Rig()
    await rig.begin("a-1", "a-2")
    rig.worker.drain(30.0)
    await asyncio.sleep(0.1)
    polls = len(rig.engine.of("poll"))
    rig.engine.offer(an_activity("too-late"))
    await asyncio.sleep(5.0)
    rig.handlers.end("a-1", "a-2")
    stopped, _ = await rig.stopped()
    assert stopped == Stopped(0, ())
    assert {call.activity_id for call in rig.engine.of("complete")} == {"a-1", "a-2"}
    assert len(rig.engine.of("poll")) == polls
    assert rig.environment.shutdown.requested


@virtual_time
async def test_waiting_work_is_run_while_there_is_time_to_drain() -> None:
    """Giving back costs an attempt: finish inside the grace first (faults.md decision 2)."""
    rig = Rig(slots=1)
    rig.engine.script("poll", surplus("a-1", "a-2", "a-3"))
    await asyncio.sleep(0.5)
    rig.worker.drain(30.0)
    for id_ in ("a-1", "a-2", "a-3"):
        await asyncio.sleep(1.0)
        rig.handlers.end(id_)
    assert (await rig.stopped())[0] == Stopped(0, ())
    assert len(rig.engine.of("complete")) == 3


@virtual_time
async def test_what_a_retiring_process_has_claimed_is_run_although_its_slots_are_gone() -> None:
    """P6: the supervisor takes the slots away first and then orders the drain; HELD says what is still in use."""
    rig = Rig(slots=2)
    isolates = rig.worker.isolates = LimitOnly()  # type: ignore[assignment]
    rig.engine.script("poll", surplus("a-1", "a-2", "a-3"))
    await asyncio.sleep(0.5)
    rig.worker.set_slots(0, 1)
    assert (rig.segment.get(Cell.LIMIT_APPLIED), rig.segment.get(Cell.HELD)) == (1, 2)
    assert isolates.limit == 2
    rig.worker.drain(30.0)
    for id_ in ("a-1", "a-2", "a-3"):
        rig.handlers.end(id_)
        await asyncio.sleep(0.1)
    stopped, took_s = await rig.stopped()
    assert stopped == Stopped(0, ())
    assert took_s < 1.0
    assert len(rig.engine.of("complete")) == 3
    assert rig.segment.get(Cell.HELD) == 0


@virtual_time
async def test_n4_a_drain_that_is_frozen_gives_nothing_back_that_would_have_ended_in_time() -> None:
    """N4: a quarter of the time at most is lost; the supervisor goes by its own awake time."""
    rig = Rig()
    await rig.begin("a-1")
    rig.worker.drain(30.0)
    await asyncio.sleep(3.0)
    cast("VirtualTimeLoop", asyncio.get_running_loop()).now += 60.0
    await asyncio.sleep(10.0)
    rig.handlers.end("a-1")
    assert (await rig.stopped())[0] == Stopped(0, ())


@virtual_time
async def test_what_has_not_ended_when_the_time_is_up_is_given_back() -> None:
    rig = Rig()
    await rig.begin("a-1", "a-2")
    rig.worker.drain(10.0)
    await asyncio.sleep(3.0)
    rig.handlers.end("a-1")
    stopped, took_s = await rig.stopped()
    assert stopped == Stopped(1, ())
    assert 6.9 <= took_s <= 7.9
    assert rig.codes() == {"a-2": "WORKER_SHUTDOWN"}


@virtual_time
async def test_a_release_ends_a_drain_early_and_a_second_drain_changes_nothing() -> None:
    """Faults P4: the second signal."""
    rig = Rig()
    await rig.begin("a-1")
    rig.worker.drain(30.0)
    rig.worker.drain(3000.0)
    await asyncio.sleep(5.0)
    rig.worker.release(0.5)
    stopped, took_s = await rig.stopped()
    assert stopped == Stopped(1, ())
    assert took_s <= 0.5


@virtual_time
async def test_a_worker_with_nothing_to_do_ends_at_once() -> None:
    rig = Rig()
    await asyncio.sleep(60.0)
    rig.worker.drain(30.0)
    stopped, took_s = await rig.stopped()
    assert (stopped, took_s < 0.01) == (Stopped(0, ()), True)


@virtual_time
async def test_a_stop_amid_an_outage_does_not_wait_for_the_gate_and_polls_no_more() -> None:
    rig = Rig()
    rig.engine.script("poll", *[EngineUnavailable("status 503", retry_after_s=60.0)] * 100)
    await asyncio.sleep(1.0)
    polls = len(rig.engine.of("poll"))
    rig.worker.drain(30.0)
    stopped, took_s = await rig.stopped()
    assert (stopped, took_s < 0.01) == (Stopped(0, ()), True)
    assert len(rig.engine.of("poll")) == polls


# The poll in flight at a stop


@virtual_time
async def test_a_poll_in_flight_is_awaited_and_what_it_brings_is_run() -> None:
    """protocol.md R3."""
    rig = Rig()
    answered = asyncio.Event()
    rig.engine.offer(an_activity())
    rig.engine.script("poll", answered.wait)
    await asyncio.sleep(0.1)
    rig.worker.drain(30.0)
    await asyncio.sleep(5.0)
    answered.set()
    await asyncio.sleep(1.0)
    assert rig.handlers.running["a-1"] == 1
    rig.handlers.end("a-1")
    assert (await rig.stopped())[0] == Stopped(0, ())
    assert len(rig.engine.of("complete")) == 1


@virtual_time
async def test_what_a_poll_brings_amid_the_release_is_given_back() -> None:
    rig = Rig()
    answered = asyncio.Event()
    rig.engine.offer(an_activity())
    rig.engine.script("poll", answered.wait)
    await asyncio.sleep(0.1)
    rig.worker.release(2.0)
    await asyncio.sleep(0.5)
    answered.set()
    stopped, took_s = await rig.stopped()
    assert stopped == Stopped(1, ())
    assert rig.codes() == {"a-1": "WORKER_SHUTDOWN"}
    assert took_s < 1.0


@virtual_time
async def test_a_poll_that_outlasts_the_stop_is_named_as_one_that_may_hold_claims() -> None:
    rig = Rig()
    rig.engine.script("poll", asyncio.Event().wait)
    await asyncio.sleep(0.1)
    (poll,) = rig.engine.of("poll")
    with capture_logs() as logs:
        rig.worker.drain(3.0)
        _, took_s = await rig.stopped()
    (said,) = [entry for entry in logs if entry["event"] == "poll_abandoned"]
    assert said["worker_id"] == poll.worker_id
    assert 3.0 <= took_s <= 4.0


# Results at a stop


@virtual_time
async def test_the_whole_grace_is_spent_on_results_that_are_not_delivered_yet() -> None:
    """protocol.md §6.4."""
    rig = Rig()
    await rig.begin("a-1")
    rig.engine.script("complete", *[AWAY] * 5)
    rig.handlers.end("a-1")
    rig.worker.drain(30.0)
    assert (await rig.stopped())[0] == Stopped(0, ())
    assert len(rig.engine.of("complete")) == 6


@virtual_time
async def test_a_result_that_stays_undelivered_is_named_and_left_to_the_keeper() -> None:
    rig = Rig()
    await rig.begin("a-1")
    rig.engine.script("complete", *[AWAY] * 1000)
    rig.handlers.end("a-1")
    with capture_logs() as logs:
        rig.worker.drain(5.0)
        stopped, took_s = await rig.stopped()
    assert stopped == Stopped(0, ("a-1",))
    assert took_s <= 6.0
    assert rig.states() == [State.REPORTING]
    assert [e["activity_id"] for e in logs if e["event"] == "outcome_undelivered"] == ["a-1"]
    tries = len(rig.engine.of("complete"))
    await asyncio.sleep(60.0)
    assert len(rig.engine.of("complete")) <= tries + 1


@virtual_time
async def test_results_held_back_by_a_long_wait_get_a_last_try_when_the_time_is_up() -> None:
    rig = Rig()
    await rig.begin("a-1")
    rig.engine.script("complete", EngineUnavailable("status 503", retry_after_s=60.0))
    rig.handlers.end("a-1")
    rig.worker.drain(5.0)
    assert (await rig.stopped())[0] == Stopped(0, ())
    assert len(rig.engine.of("complete")) == 2


@pytest.mark.parametrize("verb", ["complete", "fail"])
@virtual_time
async def test_no_call_is_cancelled_while_there_is_time(verb: str) -> None:
    """The engine makes two writes of `complete` and `fail`, and drops the second when the client goes."""
    rig = Rig()
    await rig.begin("a-1", name="work" if verb == "complete" else "fail")
    ended: list[str] = []

    async def slowly() -> None:
        try:
            await asyncio.sleep(0.6)
            ended.append("answered")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rig.engine.script(verb, slowly)
    rig.handlers.end("a-1")
    await asyncio.sleep(0.01)
    rig.worker.release(0.8)
    await rig.stopped()
    assert ended == ["answered"]


@virtual_time
async def test_a_worker_that_has_ended_leaves_no_task_behind() -> None:
    """Its process may live on for a while, and asyncio complains about tasks that are forgotten."""
    before = asyncio.all_tasks()
    rig = Rig()
    await rig.begin("a-1", "a-2")
    rig.worker.drain(30.0)
    rig.handlers.end("a-1", "a-2")
    await rig.stopped()
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == before


@virtual_time
async def test_nor_does_one_that_has_left_a_call_under_way() -> None:
    """Its keeper settles the activity; the call ends with its connection."""
    before = asyncio.all_tasks()
    rig = Rig()
    rig.engine.script("complete", _hang)
    rig.handlers.end("a-1")
    rig.engine.offer(an_activity("a-1"))
    await asyncio.sleep(0.5)
    rig.worker.release(0.8)
    assert (await rig.stopped())[0].undelivered == ("a-1",)
    await rig.worker.aclose()
    assert asyncio.all_tasks() == before


async def _hang() -> None:
    await asyncio.Event().wait()
