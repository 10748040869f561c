"""The same activity handed out again while it is held: four cases by state (R11, faults.md E18)."""

from __future__ import annotations

import asyncio

from attempts_kit import State, Table, an_activity, state_of
from structlog.testing import capture_logs
from virtual_time import virtual_time

from flowherd.client.engine_protocol import Verdict
from flowherd.errors import EngineUnavailable
from flowherd.ledger import Cell

AWAY = EngineUnavailable("connection refused")


@virtual_time
async def test_the_same_activity_twice_in_one_poll_runs_once() -> None:
    table = Table()
    with capture_logs() as logs:
        worker_id = table.bring(an_activity(), an_activity())
    await table.rest()
    assert logs == []
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.handlers.begun["a-1"] == 1
    assert table.told("complete") == [("a-1", worker_id)]
    assert table.count(Cell.CLAIMED) == 1
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_running_it_goes_on_under_the_newest_worker_id() -> None:
    table = Table()
    table.bring(an_activity())
    await table.rest()
    (before,) = table.segment.records()
    newest = table.bring(an_activity())
    await table.rest()
    (after,) = table.segment.records()
    assert (after.worker_id, state_of(after)) == (newest, State.RUNNING)
    assert after.sequence > before.sequence
    assert (after.started_at, after.limit_s) == (before.started_at, before.limit_s)
    assert table.slots.held == 1
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.handlers.begun["a-1"] == 1
    assert table.told("complete") == [("a-1", newest)]
    table.check()


@virtual_time
async def test_waiting_it_goes_on_waiting_under_the_newest_worker_id() -> None:
    table = Table(slots=1)
    table.bring(an_activity("a-1"), an_activity("a-2"))
    newest = table.bring(an_activity("a-2"))
    await table.rest()
    assert table.states() == {"a-1": State.RUNNING, "a-2": State.CLAIMED}
    table.check()
    table.handlers.end("a-1", "a-2")
    await table.rest()
    assert table.handlers.begun["a-2"] == 1
    assert ("a-2", newest) in table.told("complete")


@virtual_time
async def test_a_verdict_about_the_claim_before_does_not_stop_it() -> None:
    """The 409 of the keeper's last beat went to the worker_id that was replaced."""
    table = Table()
    table.bring(an_activity())
    await table.rest()
    (old,) = table.segment.records()
    table.bring(an_activity())
    table.segment.judge(old, 2, 0.0)
    table.attempts.heed_verdicts()
    await table.rest()
    assert table.handlers.running["a-1"] == 1
    table.check()


@virtual_time
async def test_reporting_a_success_the_same_output_is_delivered_under_the_newest_worker_id() -> None:
    table = Table()
    table.engine.script("complete", *[AWAY] * 2)
    first = table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    newest = table.bring(an_activity())
    await asyncio.sleep(30.0)  # virtual time
    assert table.told("complete")[0] == ("a-1", first)
    assert table.told("complete")[-1] == ("a-1", newest)
    assert table.handlers.begun["a-1"] == 1
    assert table.states() == {}
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_reporting_a_success_the_ledger_keeps_it_for_the_newest_worker_id() -> None:
    """If this process dies now, the keeper must not send it under an old worker_id."""
    table = Table()
    table.engine.script("complete", *[AWAY] * 2)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    newest = table.bring(an_activity())
    (record,) = table.segment.records()
    kept = table.segment.journal(record.index)
    assert kept is not None
    assert newest.encode() in kept
    await asyncio.sleep(30.0)  # virtual time


@virtual_time
async def test_reporting_a_failure_it_has_arrived_and_the_new_attempt_runs() -> None:
    """The engine would not hand it out again otherwise; its delivery must not hit the new attempt."""
    table = Table()
    answered = asyncio.Event()

    async def hang() -> Verdict:
        await answered.wait()
        return Verdict.GONE

    table.engine.script("fail", hang)
    first = table.bring(an_activity(name="fail"))
    table.handlers.end("a-1")
    await table.rest()
    table.handlers.ends["a-1"] = asyncio.Event()
    second = table.bring(an_activity(name="fail"))
    await table.rest()
    assert table.handlers.begun["a-1"] == 2
    assert table.count(Cell.FAILED) == 1
    table.check()
    answered.set()
    await table.rest()
    assert table.states() == {"a-1": State.RUNNING}
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.told("fail") == [("a-1", first), ("a-1", second)]
    assert table.states() == {}
    assert table.writer.free == table.segment.capacity
    table.check()


@virtual_time
async def test_a_failure_call_under_way_is_not_cancelled_by_a_new_claim() -> None:
    """A disconnect amid `fail` splits it in half on the server."""
    table = Table()
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(5.0)  # virtual time
            ended.append("answered")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    table.engine.script("fail", hang)
    table.bring(an_activity(name="fail"))
    table.handlers.end("a-1")
    await table.rest()
    table.bring(an_activity(name="fail"))
    await asyncio.sleep(10.0)
    assert ended == ["answered"]


@virtual_time
async def test_a_detached_must_end_before_the_new_attempt_runs() -> None:
    """Two handlers of one activity in one process would share whatever they touch."""
    table = Table(slots=2)
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    table.lose("a-1")
    newest = table.bring(an_activity(name="stubborn"))
    await table.rest()
    assert table.handlers.begun["a-1"] == 1
    assert State.CLAIMED in table.states().values()
    assert table.slots.held == 1
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.handlers.begun["a-1"] == 2
    assert table.told("complete") == [("a-1", newest)]
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_others_do_not_wait_behind_one_that_waits_for_its_detached() -> None:
    table = Table(slots=2)
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    table.lose("a-1")
    table.bring(an_activity(name="stubborn"), an_activity("a-2"), an_activity("a-3"))
    await table.rest()
    assert table.handlers.running["a-2"] == 1
    table.handlers.end("a-2")
    await table.rest()
    assert table.handlers.running["a-3"] == 1
    table.check()
    table.handlers.end("a-1", "a-3")
    await table.rest()
    table.check()


@virtual_time
async def test_a_timed_out_attempt_that_still_runs_is_a_detached_for_its_next_attempt() -> None:
    table = Table(slots=1, cancel_grace_s=1.0)
    table.bring(an_activity(name="stubborn", timeout_s=10.0))
    await asyncio.sleep(12.0)
    table.bring(an_activity(name="stubborn", timeout_s=10.0))
    await table.rest()
    assert table.handlers.begun["a-1"] == 1
    table.handlers.end("a-1")
    await table.rest()
    assert table.handlers.begun["a-1"] == 2
    assert len(table.engine.of("complete")) == 1
    table.check()


@virtual_time
async def test_a_claim_is_adopted_even_when_no_record_is_free() -> None:
    """A full ledger must not end the worker."""
    table = Table(slots=1, records=1)
    table.bring(an_activity())
    await table.rest()
    newest = table.bring(an_activity())
    await table.rest()
    (record,) = table.segment.records()
    assert (record.worker_id, state_of(record)) == (newest, State.RUNNING)
    table.handlers.end("a-1")
    await table.rest()
    assert table.told("complete") == [("a-1", newest)]
    table.check()
