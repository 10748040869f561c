"""The history of a worker's attempts: one entry for each claim that has ended, with what the engine was told."""

from __future__ import annotations

import asyncio

from attempts_kit import Isolates, Table, an_activity
from virtual_time import now, virtual_time

from flowherd.activities_and_outcomes import Died
from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.ledger.attempt_history import End

FLOW = {"workflow_id": "flow-1", "key": "step"}


@virtual_time
async def test_a_success_is_remembered_with_its_times_and_its_workflow() -> None:
    table = Table()
    table.engine.script("complete", EngineUnavailable("refused"))
    table.bring(an_activity(**FLOW))
    begun_at = now()
    await asyncio.sleep(3.0)
    table.handlers.end("a-1")
    await table.rest()
    assert table.ended() == [], "it is not over before the engine has answered"
    await asyncio.sleep(10.0)
    (found,) = table.ended()
    assert (found.activity_id, found.workflow_id, found.key, found.name) == ("a-1", "flow-1", "step", "work")
    assert (found.claimed_at, found.begun_at, found.ended_at) == (begun_at, begun_at, begun_at + 3.0)
    assert begun_at + 3.0 < found.closed_at < begun_at + 13.0
    assert (found.end, found.code) == (End.COMPLETED, "")
    table.check()


@virtual_time
async def test_a_failure_is_stored_with_the_message_that_the_engine_got() -> None:
    table = Table()
    table.bring(an_activity(name="fail", **FLOW))
    table.handlers.end("a-1")
    await table.rest()
    (found,) = table.ended()
    assert (found.end, found.is_retryable) == (End.FAILED, True)
    assert (found.code, found.message) == ("EXECUTION_ERROR", "told to fail")
    assert found.workflow_id == "flow-1"


@virtual_time
async def test_a_failure_for_which_the_engine_has_no_attempt_left_is_remembered_as_final() -> None:
    table = Table()
    table.engine.script("fail", Answer(Verdict.ACCEPTED, will_retry=False))
    table.bring(an_activity(name="fail", **FLOW))
    table.handlers.end("a-1")
    await table.rest()
    (found,) = table.ended()
    assert (found.end, found.is_retryable, found.kind) == (End.FAILED, False, "ValueError")


@virtual_time
async def test_an_output_that_the_engine_refuses_is_remembered_as_a_failure() -> None:
    table = Table()
    table.engine.script("complete", Answer(Verdict.REFUSED, "status 400: no"))
    table.bring(an_activity(**FLOW))
    table.handlers.end("a-1")
    await table.rest()
    (found,) = table.ended()
    assert (found.end, found.code, found.is_retryable) == (End.FAILED, "INVALID_OUTPUT", False)


@virtual_time
async def test_an_unknown_activity_is_a_failure_of_its_workflow() -> None:
    """An unregistered activity is the most common reason for a stuck workflow."""
    table = Table()
    table.bring(an_activity(name="nobody's", **FLOW))
    await table.rest()
    (found,) = table.ended()
    assert (found.code, found.workflow_id, found.begun_at) == ("UNKNOWN_ACTIVITY", "flow-1", 0.0)


@virtual_time
async def test_a_refusal_has_the_time_at_which_it_was_decided_also_in_an_outage() -> None:
    """Told by the time of the engine's answer, the cause would follow what the engine has made of it."""
    table = Table()
    table.engine.script("fail", EngineUnavailable("refused"))
    decided_at = now()
    table.bring(an_activity(name="nobody's", **FLOW))
    await asyncio.sleep(13.0)
    (found,) = table.ended()
    assert (found.begun_at, found.ended_at) == (0.0, decided_at)
    assert found.closed_at > decided_at


@virtual_time
async def test_a_lost_lease_is_remembered_once_when_it_is_lost() -> None:
    table = Table()
    table.bring(an_activity(name="stubborn", **FLOW))
    await asyncio.sleep(1.0)
    table.lose("a-1")
    lost_at = now()
    await asyncio.sleep(1.0)
    table.handlers.end("a-1")
    await table.rest()
    (found,) = table.ended()
    assert (found.end, found.closed_at) == (End.LOST, lost_at)
    table.check()


@virtual_time
async def test_what_was_given_back_before_it_began_is_remembered_as_such() -> None:
    table = Table(slots=1)
    table.bring(an_activity("a-1", **FLOW), an_activity("a-2", **FLOW))
    await table.rest()
    released_at = now()
    releasing = asyncio.create_task(table.attempts.release(0.0))
    await table.rest()
    await releasing
    found = {one.activity_id: one for one in table.ended()}
    assert (found["a-2"].code, found["a-2"].begun_at, found["a-2"].ended_at) == (
        "WORKER_SHUTDOWN", 0.0, released_at,
    )  # fmt: skip


@virtual_time
async def test_an_attempt_that_was_claimed_again_keeps_its_workflow() -> None:
    table = Table()
    table.bring(an_activity(**FLOW))
    await table.rest()
    table.bring(an_activity(**FLOW))
    table.handlers.end("a-1")
    await table.rest()
    (found,) = table.ended()
    assert (found.workflow_id, found.key, found.end) == ("flow-1", "step", End.COMPLETED)


@virtual_time
async def test_what_died_in_its_isolate_is_remembered_by_the_keeper_alone() -> None:
    """It knows what the engine was told, such as that it was given up."""
    isolates = Isolates()
    table = Table(isolates=isolates)
    table.ledger.crash_history.charge("a-1", "killed", 1)
    table.bring(an_activity(**FLOW))
    await table.rest()
    isolates.end("a-1", Died("killed by SIGSEGV"))
    await table.rest()
    table.lose("a-1")
    await table.rest()
    assert table.ended() == []
    assert table.attempts.undelivered == ()
