"""What a worker holds: from the claim to the verdict, with slots and records that always come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from attempts_kit import State, Table, an_activity
from msgspec.structs import replace
from structlog.testing import capture_logs
from virtual_time import now, virtual_time

from flowherd.client.engine_protocol import Batch, Undecodable, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.ledger import Cell

if TYPE_CHECKING:
    from flowherd.worker.delivery import Delivery

AWAY = EngineUnavailable("connection refused")


@virtual_time
async def test_an_activity_goes_from_claim_to_acceptance_and_leaves_nothing_behind() -> None:
    table = Table()
    worker_id = table.bring(an_activity())
    assert table.states() == {"a-1": State.CLAIMED}
    await table.rest()
    assert table.states() == {"a-1": State.RUNNING}
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.told("complete") == [("a-1", worker_id)]
    assert table.states() == {}
    assert table.slots.held == 0
    assert table.acknowledged == 1
    assert (table.count(Cell.CLAIMED), table.count(Cell.COMPLETED)) == (1, 1)
    table.check()


@virtual_time
async def test_the_record_is_written_before_the_handler_starts() -> None:
    """Faults C3: a process killed between the two must have left a claim to settle."""
    table = Table()
    table.bring(an_activity())
    assert table.states() == {"a-1": State.CLAIMED}
    assert table.handlers.begun["a-1"] == 0


@virtual_time
async def test_a_slot_is_free_as_soon_as_the_handler_has_ended_while_its_record_is_beaten_on() -> None:
    """Freeing it at the acknowledgement would halve the throughput with any latency of the engine."""
    table = Table(slots=1)
    table.engine.script("complete", *[AWAY] * 3)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    assert table.slots.held == 0
    assert table.states() == {"a-1": State.REPORTING}
    assert table.attempts.undelivered == ("a-1",)
    await asyncio.sleep(30.0)  # virtual time
    assert table.states() == {}
    assert table.attempts.undelivered == ()


@virtual_time
async def test_a_finished_result_is_kept_in_the_ledger_until_it_is_accepted() -> None:
    """Faults C6: the keeper can re-send it when this process dies now."""
    table = Table()
    table.engine.script("complete", *[AWAY] * 3)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    (record,) = table.segment.records()
    kept = table.segment.journal(record.index)
    assert kept is not None
    assert b'"by": "a-1"' in kept
    table.reporter.close()


@virtual_time
async def test_a_failure_is_reported_and_counted_as_one() -> None:
    table = Table()
    table.bring(an_activity(name="fail"))
    table.handlers.end("a-1")
    await table.rest()
    (call,) = table.engine.of("fail")
    assert call.body["error"]["code"] == "EXECUTION_ERROR"
    assert table.count(Cell.FAILED) == 1
    table.check()


@virtual_time
async def test_an_unknown_activity_name_is_failed_and_its_slot_comes_back() -> None:
    """Faults A10."""
    table = Table()
    table.bring(an_activity(name="nobody knows"))
    await table.rest()
    (call,) = table.engine.of("fail")
    assert (call.body["error"]["code"], call.body["error"]["retryable"]) == ("UNKNOWN_ACTIVITY", True)
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_a_refused_output_counts_as_a_failure() -> None:
    table = Table()
    table.engine.script("complete", Verdict.REFUSED)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    assert (table.count(Cell.COMPLETED), table.count(Cell.FAILED)) == (0, 1)
    table.check()


@virtual_time
async def test_a_conflict_on_a_completion_counts_as_lost() -> None:
    """Faults E13, E14."""
    table = Table()
    table.engine.script("complete", Verdict.GONE)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    assert (table.count(Cell.COMPLETED), table.count(Cell.LOST)) == (0, 1)
    table.check()


# More than was asked for


@virtual_time
async def test_surplus_items_wait_with_a_lease_and_start_in_order_as_slots_get_free() -> None:
    """Faults E19: one poll for one activity has been seen to return thirty."""
    table = Table(slots=2, records=40)
    ids = [f"a-{number}" for number in range(30)]
    table.bring(*(an_activity(id_) for id_ in ids))
    await table.rest()
    assert sum(table.handlers.running.values()) == 2
    assert list(table.states().values()).count(State.CLAIMED) == 28
    for number, id_ in enumerate(ids):
        table.check()
        assert table.handlers.running[id_] == 1, f"number {number} is out of order"
        table.handlers.end(id_)
        await table.rest()
    assert [id_ for id_, _ in table.told("complete")] == ids
    assert table.slots.held == 0


@virtual_time
async def test_what_finds_no_record_is_handed_back_as_overloaded_and_the_rest_runs() -> None:
    """Faults E19: its lease could not be extended."""
    table = Table(slots=2, records=3)
    table.bring(*(an_activity(f"a-{number}") for number in range(5)))
    await table.rest()
    refused = table.engine.of("fail")
    assert {call.activity_id for call in refused} == {"a-3", "a-4"}
    assert {call.body["error"]["code"] for call in refused} == {"WORKER_OVERLOADED"}
    assert all(call.body["error"]["retryable"] for call in refused)
    assert sum(table.handlers.running.values()) == 2
    table.check()


@virtual_time
async def test_an_undecodable_item_is_failed_for_good_and_the_others_run() -> None:
    """protocol.md R4, faults E16: one bad item must not cost the batch."""
    table = Table()
    permits = table.attempts.reserve(2)
    batch = Batch([an_activity()], [Undecodable("bad-1", "t-1", "activity_name is not a string")])
    table.attempts.polled(permits, batch, asked_at=now())
    await table.rest()
    (call,) = table.engine.of("fail")
    assert (call.activity_id, call.worker_id) == ("bad-1", "t-1")
    assert (call.body["error"]["code"], call.body["error"]["retryable"]) == ("INVALID_ACTIVITY", False)
    assert table.handlers.running["a-1"] == 1
    assert table.slots.held == 1
    table.check()


@virtual_time
async def test_what_cannot_be_run_is_owed_until_the_engine_knows() -> None:
    """A worker that stops now must not leave it to the end of its lease."""
    table = Table(records=1)
    table.engine.script("fail", *[AWAY] * 3)
    table.bring(an_activity("a-1"), an_activity("a-2"))
    table.handlers.end("a-1")
    ended = asyncio.create_task(table.attempts.all_ended())
    await table.rest()
    assert not ended.done()
    await ended
    assert len(table.engine.of("fail")) == 4


@virtual_time
async def test_a_poll_may_bring_nothing_while_four_deliveries_a_slot_are_waiting() -> None:
    """Results are kept, bounded: beyond that polling pauses (faults E5)."""
    table = Table(slots=2, records=40)
    table.engine.script("complete", *[AWAY] * 10_000)
    for number in range(8):
        assert table.attempts.room > 0
        table.bring(an_activity(f"a-{number}"))
        table.handlers.end(f"a-{number}")
        await table.rest()
    assert table.attempts.room == 0
    assert len(table.attempts.undelivered) == 8
    table.reporter.close()


@virtual_time
async def test_a_poll_may_bring_no_more_than_there_are_records() -> None:
    table = Table(slots=2, records=3)
    table.bring(an_activity())
    assert table.attempts.room == 2


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), KeyError("another")])
@virtual_time
async def test_a_bug_in_a_delivery_is_said_and_does_not_take_the_others_along(error: Exception) -> None:
    table = Table()
    table.engine.script("complete", error)
    with capture_logs() as logs:
        table.bring(an_activity("a-1"), an_activity("a-2"))
        table.handlers.end("a-1", "a-2")
        await table.rest()
    assert "internal_error" in [entry["event"] for entry in logs]
    assert table.count(Cell.COMPLETED) == 1


@virtual_time
async def test_what_handlers_of_one_turn_have_brought_about_is_sent_when_it_ends() -> None:
    """An engine that is asleep is woken once for all of them; their records say at once that they have outcomes."""
    table = Table(slots=4)
    meter = table.meter
    table.bring(an_activity("a-1"), an_activity("a-2"))
    await table.rest()
    meter.begin_turn()
    table.handlers.end("a-1", "a-2")
    await table.rest()
    assert table.told("complete") == []
    assert table.states() == {"a-1": State.REPORTING, "a-2": State.REPORTING}
    meter.end_turn()
    await table.rest()
    assert [id_ for id_, _ in table.told("complete")] == ["a-1", "a-2"]
    assert table.states() == {}


@virtual_time
async def test_one_that_cannot_be_sent_keeps_none_of_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(slots=4)
    meter, reporter = table.meter, table.reporter
    deliver = reporter.deliver

    def broken(delivery: Delivery) -> None:
        if delivery.activity_id == "a-1":
            raise RuntimeError("ours")
        deliver(delivery)

    monkeypatch.setattr(reporter, "deliver", broken)
    table.bring(an_activity("a-1"), an_activity("a-2"))
    await table.rest()
    meter.begin_turn()
    table.handlers.end("a-1", "a-2")
    await table.rest()
    with capture_logs() as logs:
        meter.end_turn()
    await table.rest()
    assert [line["event"] for line in logs] == ["internal_error"]
    assert [id_ for id_, _ in table.told("complete")] == ["a-2"]


@virtual_time
async def test_what_a_poll_brings_begins_although_the_limit_has_fallen_meanwhile() -> None:
    """P6: a process that retires while its poll is under way. What that brought waited for the drain's end."""
    table = Table(slots=2)
    reserved = table.attempts.reserve(2)
    table.attempts.resize(0)
    batch = Batch([replace(an_activity(f"a-{n}"), worker_id="t-1") for n in range(2)])
    table.attempts.polled(reserved, batch, asked_at=now())
    await table.rest()
    assert table.states() == {"a-0": State.RUNNING, "a-1": State.RUNNING}
    assert table.count(Cell.HELD) == 2
    table.handlers.end("a-0", "a-1")
    await table.rest()
    assert table.count(Cell.HELD) == 0
    assert table.attempts.reserve(1) == 0
    table.check()


@virtual_time
async def test_what_waits_for_a_slot_gets_it_although_the_limit_has_fallen() -> None:
    """And the host learns that those slots are in use before it learns that the limit is applied."""
    table = Table(slots=2, records=40)
    table.bring(*(an_activity(f"a-{n}") for n in range(3)))
    await table.rest()
    table.attempts.resize(1)
    assert table.count(Cell.HELD) == 2
    table.handlers.end("a-0")
    await table.rest()
    assert table.states() == {"a-1": State.RUNNING, "a-2": State.RUNNING}
    table.handlers.end("a-1")
    await table.rest()
    assert table.count(Cell.HELD) == 1
    assert table.attempts.reserve(2) == 0
