"""Delivery: a success is repeated byte for byte until there is a verdict, a failure within bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time

from flowherd.activities_and_outcomes import Completed, Failed
from flowherd.attempt_ids import AttemptIds
from flowherd.client.circuit import Circuit
from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineMisconfigured, EngineUnauthorized, EngineUnavailable
from flowherd.testing import FakeEngine
from flowherd.worker.delivery import FAIL_TRIES, Delivered, Delivery
from flowherd.worker.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

DONE = Completed(b'{"n":1}', cost_usd="0.5")
FAILED = Failed("EXECUTION_ERROR", "it broke", retryable=True)
AWAY = EngineUnavailable("connection refused")
IN_DOUBT = EngineUnavailable("ReadError", in_doubt=True)

WHO = AttemptIds("a-1", "wf-1", "step", "work")


class Sender:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.circuit = Circuit()
        self.reporter = Reporter(self.engine, self.circuit, deadline_s=30.0)
        self.worker_id: str | None = "w-1"

    async def deliver(self, outcome: Completed | Failed = DONE, who: AttemptIds = WHO) -> Delivered:
        ends: asyncio.Queue[Delivered] = asyncio.Queue()
        self.reporter.deliver(Delivery(who, lambda: self.worker_id, outcome, ends.put_nowait))
        return await ends.get()

    def sent(self, verb: str) -> list[object]:
        return [call.body for call in self.engine.of(verb)]


@virtual_time
async def test_a_success_is_tried_until_the_engine_takes_it_always_with_the_same_bytes() -> None:
    """Faults E5, E6: identical bytes and worker_id heal the engine's two-write gap (protocol.md fact 11)."""
    sender = Sender()
    errors = [AWAY, IN_DOUBT, EngineUnauthorized("401"), EngineMisconfigured("302"), IN_DOUBT] * 20
    sender.engine.script("complete", *errors)
    assert await sender.deliver() is Delivered.ACCEPTED
    bodies = sender.sent("complete")
    assert len(bodies) == 101
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["output"] == {"n": 1}
    assert sender.engine.of("fail") == []


@virtual_time
async def test_an_undelivered_success_never_becomes_a_failure() -> None:
    """Law 8; the stock SDK answers a lost report with `fail`."""
    sender = Sender()
    sender.engine.script("complete", *[IN_DOUBT] * 5000)
    delivery = asyncio.create_task(sender.deliver())
    await asyncio.sleep(3600.0)
    assert not delivery.done()
    assert {call.verb for call in sender.engine.calls} == {"complete"}
    sender.reporter.close()


@pytest.mark.parametrize(
    ("verdict", "delivery"), [(Verdict.GONE, Delivered.GONE), (Verdict.UNKNOWN, Delivered.DROPPED)]
)
@virtual_time
async def test_a_success_that_is_not_ours_any_more_is_dropped_and_not_failed(
    verdict: Verdict, delivery: Delivered
) -> None:
    """Faults E13; protocol.md fact 13: 409 means stop, never send `fail` after it."""
    sender = Sender()
    sender.engine.script("complete", verdict)
    assert await sender.deliver() is delivery
    assert len(sender.engine.calls) == 1


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.TOO_LARGE, "OUTPUT_TOO_LARGE"), (Verdict.REFUSED, "INVALID_OUTPUT")]
)
@virtual_time
async def test_an_output_that_is_refused_for_good_becomes_a_terminal_failure(
    verdict: Verdict, code: str
) -> None:
    """Faults E27: the only case in which a success is reported as a failure, with what it cost."""
    sender = Sender()
    sender.engine.script("complete", IN_DOUBT, Answer(verdict, "no"))
    with capture_logs() as logs:
        assert await sender.deliver() is Delivered.REPLACED
    (body,) = sender.sent("fail")
    assert (body["error"]["code"], body["error"]["retryable"]) == (code, False)
    assert body["cost_usd"] == "0.5"
    assert "output_refused" in [entry["event"] for entry in logs]


@virtual_time
async def test_a_large_output_is_failed_with_its_size_and_a_hint() -> None:
    sender = Sender()
    sender.engine.script("complete", Answer(Verdict.TOO_LARGE, "status 413: too large"))
    await sender.deliver(Completed(b'{"n":"%b"}' % (b"x" * 5000)))
    (body,) = sender.sent("fail")
    assert "5" in body["error"]["message"]
    assert "return a file instead" in body["error"]["message"]


@virtual_time
async def test_warnings_of_the_engine_reach_the_log() -> None:
    sender = Sender()
    sender.engine.script("complete", Answer(Verdict.ACCEPTED, "unknown model 'x/y'"))
    with capture_logs() as logs:
        assert await sender.deliver() is Delivered.ACCEPTED
    assert logs == [
        {
            "event": "completion_warnings",
            "log_level": "warning",
            "name": "work",
            "workflow_id": "wf-1",
            "activity_id": "a-1",
            "activity_key": "step",
            "seen": 1,
            "warnings": "unknown model 'x/y'",
        }
    ]


RETRYABLE = Failed("EXECUTION_ERROR", "it broke", retryable=True)


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_retryable_failure_whose_last_attempt_it_was_is_said_as_an_error_once(is_known: bool) -> None:  # noqa: FBT001
    """The engine alone counts attempts: a retryable failure may be the end of a workflow."""
    sender, who = Sender(), AttemptIds("a-1", "wf-1", "step", "work", is_last=is_known)
    sender.engine.script("fail", Answer(Verdict.ACCEPTED, will_retry=False))
    with capture_logs() as logs:
        assert await sender.deliver(RETRYABLE, who) is Delivered.LAST
    lines = [line for line in logs if line["event"] == "activity_out_of_attempts"]
    assert len(lines) == (not is_known)
    for line in lines:
        assert (line["log_level"], line["code"], line["reason"]) == ("error", "EXECUTION_ERROR", "it broke")
        assert (line["name"], line["workflow_id"]) == ("work", "wf-1")


@virtual_time
async def test_a_failure_is_tried_a_bounded_number_of_times() -> None:
    """protocol.md R10: it is not idempotent, and the lease ends by itself."""
    sender = Sender()
    sender.engine.script("fail", *[AWAY] * 1000)
    assert await sender.deliver(FAILED) is Delivered.DROPPED
    assert len(sender.engine.of("fail")) == FAIL_TRIES


@pytest.mark.parametrize(("first", "delivery"), [(IN_DOUBT, Delivered.ACCEPTED), (AWAY, Delivered.GONE)])
@virtual_time
async def test_a_conflict_after_a_failure_in_doubt_means_that_it_had_arrived(
    first: EngineUnavailable, delivery: Delivered
) -> None:
    """protocol.md §7; a connection that was refused delivered nothing, so then the conflict is a real one."""
    sender = Sender()
    sender.engine.script("fail", first, Verdict.GONE)
    assert await sender.deliver(FAILED) is delivery


@virtual_time
async def test_a_failure_the_engine_refuses_is_dropped_loudly() -> None:
    sender = Sender()
    sender.engine.script("fail", Answer(Verdict.REFUSED, "status 422"))
    with capture_logs() as logs:
        assert await sender.deliver(FAILED) is Delivered.DROPPED
    assert logs[0]["event"] == "failure_refused_by_engine"


@pytest.mark.parametrize("outcome", [DONE, FAILED])
@virtual_time
async def test_a_worker_id_that_is_replaced_between_tries_is_used_from_the_next_try_on(
    outcome: Completed | Failed,
) -> None:
    """protocol.md R11: the older one is no longer valid and gets 409."""
    sender = Sender()
    verb = "complete" if outcome is DONE else "fail"

    async def replaced() -> None:
        sender.worker_id = "w-2"
        raise AWAY

    sender.engine.script(verb, replaced)
    assert await sender.deliver(outcome) is Delivered.ACCEPTED
    assert [call.worker_id for call in sender.engine.of(verb)] == ["w-1", "w-2"]


@pytest.mark.parametrize("outcome", [DONE, FAILED])
@virtual_time
async def test_a_conflict_about_a_replaced_worker_id_is_ignored(outcome: Completed | Failed) -> None:
    sender = Sender()
    verb = "complete" if outcome is DONE else "fail"

    async def conflict() -> Verdict:
        sender.worker_id = "w-2"
        return Verdict.GONE

    sender.engine.script(verb, conflict)
    assert await sender.deliver(outcome) is Delivered.ACCEPTED
    assert [call.worker_id for call in sender.engine.of(verb)] == ["w-1", "w-2"]


@virtual_time
async def test_the_worker_id_is_asked_for_after_the_gate_and_not_before() -> None:
    """A delivery may wait at the circuit for a minute, in which the activity is claimed again."""
    sender = Sender()
    sender.engine.script("complete", EngineUnavailable("status 503", retry_after_s=60.0))
    delivery = asyncio.create_task(sender.deliver())
    await asyncio.sleep(30.0)
    sender.worker_id = "w-2"
    assert await delivery is Delivered.ACCEPTED
    assert [call.worker_id for call in sender.engine.of("complete")] == ["w-1", "w-2"]


def hang_until(event: asyncio.Event, then: Exception | None = None) -> Callable:
    async def step() -> None:
        await event.wait()
        if then is not None:
            raise then

    return step


@virtual_time
async def test_a_withdrawn_delivery_lets_the_call_under_way_end_and_makes_no_other() -> None:
    """A disconnect amid `fail` leaves the engine with half of it: a call is never cancelled."""
    sender = Sender()
    answered = asyncio.Event()
    sender.engine.script("fail", hang_until(answered, then=IN_DOUBT))
    delivery = asyncio.create_task(sender.deliver(FAILED))
    await asyncio.sleep(1.0)
    sender.worker_id = None
    await asyncio.sleep(1.0)
    assert not delivery.done()
    answered.set()
    assert await delivery is Delivered.WITHDRAWN
    assert len(sender.engine.of("fail")) == 1


@virtual_time
async def test_a_delivery_withdrawn_at_the_gate_makes_no_call_and_says_nothing_about_the_engine() -> None:
    sender = Sender()
    sender.engine.script("complete", AWAY)
    delivery = asyncio.create_task(sender.deliver())
    await sender.engine.until(lambda engine: bool(engine.calls))
    sender.worker_id = None
    assert await delivery is Delivered.WITHDRAWN
    assert len(sender.engine.calls) == 1
    assert sender.circuit.failures == 1


@virtual_time
async def test_calls_ended_waits_for_calls_and_not_for_the_circuit() -> None:
    sender = Sender()
    answered = asyncio.Event()
    sender.engine.script("complete", hang_until(answered, then=AWAY), *[AWAY] * 1000)
    delivery = asyncio.create_task(sender.deliver())
    ended = asyncio.create_task(sender.reporter.calls_ended())
    await asyncio.sleep(1.0)
    ended = asyncio.create_task(sender.reporter.calls_ended())
    await asyncio.sleep(1.0)
    assert not ended.done()
    answered.set()
    begun = now()
    await ended
    assert now() - begun < 0.001
    assert not delivery.done()
    sender.reporter.close()


@virtual_time
async def test_a_closed_reporter_ends_the_calls_that_are_left() -> None:
    """No task waits for an answer when its worker is forgotten."""
    sender = Sender()
    sender.engine.script("complete", hang_until(asyncio.Event()))
    delivery = asyncio.ensure_future(sender.deliver())
    await asyncio.sleep(1.0)
    await sender.reporter.aclose()
    assert not sender.reporter._tasks._tasks
    delivery.cancel()


@virtual_time
async def test_a_closed_reporter_lets_calls_end_and_makes_no_other_and_has_no_tasks_then() -> None:
    """A task that is still there when its worker is forgotten is a complaint of asyncio's in the log."""
    sender, answered = Sender(), asyncio.Event()
    sender.engine.script("complete", Verdict.ACCEPTED, hang_until(answered, then=IN_DOUBT))
    assert await sender.deliver() is Delivered.ACCEPTED
    deliveries = [asyncio.ensure_future(sender.deliver()) for _ in range(2)]
    await asyncio.sleep(1.0)
    sender.reporter.close()
    await asyncio.sleep(1.0)
    assert len(sender.reporter._tasks._tasks) == 1
    answered.set()
    await asyncio.sleep(1.0)
    assert not sender.reporter._tasks._tasks
    assert len(sender.engine.calls) == 3
    for delivery in deliveries:
        delivery.cancel()


@virtual_time
async def test_a_conflict_is_real_when_only_a_call_under_another_worker_id_was_in_doubt() -> None:
    """The doubt ends with the worker_id it was about."""
    sender = Sender()
    sender.engine.script("fail", IN_DOUBT, Verdict.GONE)
    delivery = asyncio.create_task(sender.deliver(FAILED))
    await sender.engine.until(lambda engine: bool(engine.calls))
    sender.worker_id = "w-2"
    assert await delivery is Delivered.GONE


@virtual_time
async def test_a_conflict_about_the_failure_that_replaces_an_output_in_doubt_is_real() -> None:
    sender = Sender()
    sender.engine.script("complete", IN_DOUBT, Verdict.REFUSED)
    sender.engine.script("fail", Verdict.GONE)
    assert await sender.deliver() is Delivered.GONE


@virtual_time
async def test_the_failure_that_replaces_a_large_output_waits_for_no_other_large_one() -> None:
    sender, over = Sender(), asyncio.Event()
    large = Completed(b'{"n":"%b"}' % (b"x" * (64 << 10)))

    async def refused() -> Verdict:
        await asyncio.sleep(0.1)
        return Verdict.REFUSED

    sender.engine.script("complete", refused, hang_until(over))
    first, second = (asyncio.create_task(sender.deliver(large)) for _ in range(2))
    await asyncio.sleep(1.0)
    assert first.done()
    assert first.result() is Delivered.REPLACED
    over.set()
    assert await second is Delivered.ACCEPTED
