"""Delivery through proxies: their answers are no verdicts, and a slow call is no outage."""

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
from flowherd.client.kruxia_replies import answer_to
from flowherd.errors import CallTooSlow, EngineError, EngineUnavailable, ForeignReply, NotAcknowledged
from flowherd.testing import FakeEngine
from flowherd.transport.transport import Reply
from flowherd.worker.delivery import FAIL_TRIES, OUTAGE_S, Delivered, Delivery
from flowherd.worker.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DONE = Completed(b'{"n":1}', cost_usd="0.5")
FAILED = Failed("EXECUTION_ERROR", "it broke", retryable=True)
LARGE = Completed(b'{"n":"%b"}' % (b"x" * (64 << 10)))
LIMIT_S = 120.0
TOO_SLOW = CallTooSlow("no complete reply within 60 s", in_doubt=True)


STATUSES = [200, 301, 302, 307, 400, 403, 404, 405, 407, 409, 410, 415, 422, 431, 451]


def foreign(status: int) -> ForeignReply:
    """The error for such a reply, as the classifier has it."""
    with pytest.raises(ForeignReply) as raised:
        answer_to(Reply(status, {}, b"<html>no</html>"), "POST http://engine/x")
    return raised.value


class Sender:
    """A reporter whose engine answers as it is told; `outcome` is what the last delivery became."""

    def __init__(self, most_large: int = 1) -> None:
        self.engine = FakeEngine()
        self.circuit = Circuit()
        self.reporter = Reporter(self.engine, self.circuit, 30.0, limit_s=LIMIT_S, most_large=most_large)

    def post(
        self, outcome: Completed | Failed = DONE, timeout_s: float | None = None, id_: str = "a-1"
    ) -> asyncio.Future[Delivered]:
        end: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self.reporter.deliver(
            Delivery(AttemptIds(id_, "w", "k", "n"), lambda: "w-1", outcome, end.set_result, timeout_s)
        )
        return end

    def answer(self, verb: str, step: EngineError, times: int = 10_000) -> None:
        self.engine.script(verb, *[step] * times)


@pytest.mark.parametrize("status", STATUSES)
@virtual_time
async def test_a_computed_success_outlives_a_proxy_that_answers_for_a_while(status: int) -> None:
    """N7: a redeployed ingress answers 404 or 413 in HTML for half a minute; the circuit stays closed."""
    sender = Sender()
    sender.answer("complete", foreign(status))
    delivery = sender.post(timeout_s=6.0)
    await asyncio.sleep(OUTAGE_S - 15.0)
    assert (delivery.done(), sender.circuit.failures) == (False, 0)
    sender.engine._scripts.clear()
    assert await delivery is Delivered.ACCEPTED
    assert sender.engine.of("fail") == []
    assert 60 < len(sender.engine.of("complete")) < 300


@pytest.mark.parametrize("timeout_s", [None, 40.0, 3000.0])
@pytest.mark.parametrize("status", [*STATUSES, 413])
@virtual_time
async def test_an_output_is_given_up_after_ten_minutes_of_others_answers_as_a_retryable_failure(
    status: int, timeout_s: float | None
) -> None:
    """N22, E27: from the first such answer on; a 413 speaks of this body, and ends it after the activity's limit."""
    sender = Sender()
    sender.answer("complete", EngineUnavailable("status 502"), 40)  # an outage before is another matter
    sender.answer("complete", foreign(status))
    with capture_logs() as logs:
        ended = sender.post(timeout_s=timeout_s)
        await sender.engine.until(lambda engine: len(engine.calls) > 40)
        began = now()
        is_too_large = status == 413
        assert await ended is (Delivered.REPLACED if is_too_large else Delivered.UNDELIVERED)
    limit_s = LIMIT_S if timeout_s is None else timeout_s
    limit_s = limit_s if is_too_large else max(limit_s, OUTAGE_S)
    assert limit_s <= now() - began <= limit_s + 10.5
    (error,) = [call.body["error"] for call in sender.engine.of("fail")]
    if is_too_large:
        assert (error["code"], error["retryable"]) == ("OUTPUT_TOO_LARGE", False)
    else:
        assert (error["code"], error["retryable"]) == ("NOT_DELIVERED", True)
        assert all(word in error["message"] for word in (f"status {status}", "http://engine/x", "<html>no"))
    (line,) = [entry for entry in logs if entry["event"].endswith("a_proxy")]
    assert line["tried_again_for_s"] == limit_s


@virtual_time
async def test_an_outcome_that_is_not_acknowledged_is_kept_and_one_line_says_so() -> None:
    """N23: its place in the engine is unknown; nothing is lost, and nothing is silent."""
    sender = Sender()
    with pytest.raises(NotAcknowledged) as raised:
        answer_to(Reply(200, {}, b'{"acknowledged":false}'), "POST http://engine/x")
    sender.answer("complete", raised.value)
    with capture_logs() as logs:
        delivery = sender.post()
        await asyncio.sleep(OUTAGE_S - 15.0)
        assert not delivery.done()
        sender.engine._scripts.clear()
        assert await delivery is Delivered.ACCEPTED
    (line,) = [entry for entry in logs if entry["log_level"] != "debug"]
    assert line["event"] == "delivery_not_acknowledged"
    assert (line["activity_id"], line["workflow_id"], line["tried_again_for_s"]) == ("a-1", "w", OUTAGE_S)


@virtual_time
async def test_a_413_amid_other_answers_of_a_proxy_has_its_own_time() -> None:
    """E27: an ingress that is away answers anything; nine minutes of 404 say nothing about the body."""
    sender = Sender()
    sender.answer("complete", foreign(404))
    delivery = sender.post()
    await asyncio.sleep(LIMIT_S * 2)
    sender.engine._scripts.clear()
    sender.answer("complete", foreign(413))
    await asyncio.sleep(LIMIT_S - 15.0)
    assert not delivery.done()
    assert await delivery is Delivered.REPLACED


@virtual_time
async def test_the_failure_that_replaces_an_output_outlives_a_proxy_for_as_long_again() -> None:
    sender = Sender()
    sender.answer("complete", foreign(413))
    sender.answer("fail", foreign(404))
    delivery = sender.post()
    await asyncio.sleep(LIMIT_S + OUTAGE_S - 15.0)
    assert not delivery.done()
    sender.engine._scripts.clear()
    assert await delivery is Delivered.REPLACED


@virtual_time
async def test_a_short_pause_ends_before_a_long_one_that_began_earlier() -> None:
    sender = Sender()
    sender.answer("complete", foreign(404))
    sender.post(id_="old")
    await asyncio.sleep(60.0)
    tries = len(sender.engine.calls)
    await sender.engine.until(lambda engine: len(engine.calls) > tries)
    sender.post(id_="new")
    await asyncio.sleep(0.5)
    assert [call.activity_id for call in sender.engine.calls].count("new") >= 3


@virtual_time
async def test_the_engines_own_413_ends_at_once() -> None:
    """E27: it will never take these bytes."""
    sender, began = Sender(), now()
    words = "status 413: Failed to buffer the request body: length limit exceeded"
    sender.engine.script("complete", Answer(Verdict.TOO_LARGE, words))
    assert await sender.post() is Delivered.REPLACED
    assert now() - began < 0.01


@virtual_time
async def test_a_failure_outlives_a_proxy_too_and_its_tries_are_not_used_up() -> None:
    """N7: the bound on tries is for a failure in doubt, the limit for a proxy's answers."""
    sender = Sender()
    sender.answer("fail", foreign(404), 3)
    sender.answer("fail", EngineUnavailable("status 502"), FAIL_TRIES - 1)
    assert await sender.post(FAILED) is Delivered.ACCEPTED


@pytest.mark.parametrize("error", [foreign(413), TOO_SLOW], ids=["foreign", "slow"])
@virtual_time
async def test_an_error_of_one_call_delays_no_other_call(error: EngineError) -> None:
    """N7, N8: one output that a proxy refuses, or that is slow, must not open the worker's circuit."""
    sender = Sender()
    sender.answer("complete", error, 5)
    first = sender.post()
    await sender.engine.until(lambda engine: len(engine.calls) == 5)
    began = now()
    assert await sender.post(id_="a-2") is Delivered.ACCEPTED
    assert (now() - began, sender.circuit.failures) == (0.0, 0)
    assert await first is Delivered.ACCEPTED


@virtual_time
async def test_an_error_of_one_call_alone_does_not_close_an_open_circuit_either() -> None:
    circuit = Circuit()

    async def fails(error: EngineError) -> None:
        raise error

    with pytest.raises(EngineUnavailable):
        await circuit.through(lambda: fails(EngineUnavailable("refused")))
    with pytest.raises(ForeignReply):
        await circuit.through(lambda: fails(foreign(404)))
    assert circuit.failures == 1


@virtual_time
async def test_a_hurried_gate_ends_the_pause_of_a_delivery_of_its_own() -> None:
    """The end of a drain: there is no time left to wait."""
    sender = Sender()
    sender.answer("complete", foreign(404), 20)
    delivery = sender.post()
    await sender.engine.until(lambda engine: len(engine.calls) == 20)
    began = now()
    await asyncio.sleep(0)
    sender.reporter.hurry()
    assert await delivery is Delivered.ACCEPTED
    assert now() == began


BROKEN, FORBIDDEN = EngineUnavailable("status 500", in_doubt=True), foreign(403)


async def deliver_beside(sender: Sender, error: EngineError, seconds: float) -> float:
    """Delivers others while the engine answers one outcome with that error; the longest that one of them took."""
    complete, longest_s, number = sender.engine.complete, 0.0, 0

    async def complete_others(activity_id: str, body: bytes, deadline_s: float) -> Answer:
        answer = await complete(activity_id, body, deadline_s)
        if activity_id == "never":
            raise error
        return answer

    sender.engine.complete = complete_others  # type: ignore[method-assign]
    sender.post(id_="never")
    until = now() + seconds
    while (began := now()) < until:
        number += 1
        assert await sender.post(id_=f"a-{number}") is Delivered.ACCEPTED
        longest_s = max(longest_s, now() - began)
        await asyncio.sleep(0.02)
    return longest_s


@pytest.mark.parametrize("error", [BROKEN, FORBIDDEN], ids=["500", "403"])
@virtual_time
async def test_an_outcome_that_the_engine_never_takes_delays_no_other_and_is_logged_once(
    error: EngineError,
) -> None:
    """Its tries opened the circuit again and again."""
    sender = Sender()
    with capture_logs() as logs:
        longest_s = await deliver_beside(sender, error, 100.0)
    tries = sum(call.activity_id == "never" for call in sender.engine.calls)
    assert longest_s < 0.5
    assert 10 < tries < 50
    said = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert len(said) < 10
    assert said.count("outcome_not_taken_yet") + said.count("outcome_refused_by_a_proxy") == 1


@virtual_time
async def test_a_403_about_one_output_alone_fails_it_in_the_end_and_may_be_tried_again() -> None:
    """N7: a firewall before the engine that dislikes its bytes; all others pass."""
    sender = Sender()
    await deliver_beside(sender, FORBIDDEN, OUTAGE_S + 25.0)
    (body,) = (call.body for call in sender.engine.of("fail"))
    assert (body["error"]["code"], body["error"]["retryable"]) == ("NOT_DELIVERED", True)


@virtual_time
async def test_a_failure_that_only_others_answer_is_given_up_after_as_long() -> None:
    """N22: nobody has heard of it, and the lease ends."""
    sender, began = Sender(), now()
    sender.answer("fail", FORBIDDEN)
    with capture_logs() as logs:
        assert await sender.post(FAILED) is Delivered.DROPPED
    assert OUTAGE_S <= now() - began < OUTAGE_S + 10.5
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["failure_given_up"]


def test_a_pause_that_the_engine_asks_for_holds_for_all_calls() -> None:
    """E7: also one that has taken other outcomes since."""
    busy = EngineUnavailable("status 429", retry_after_s=20.0)
    delivery = Delivery(AttemptIds("a-1", "w", "k", "n"), lambda: "w-1", DONE, lambda _: None)
    assert not delivery.is_to_blame(BROKEN, successes=1)
    assert not delivery.is_to_blame(busy, successes=2)
    assert delivery.is_to_blame(BROKEN, successes=3)
    assert not delivery.is_to_blame(BROKEN, successes=3)


def waits_for(event: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def step() -> None:
        await event.wait()

    return step


@pytest.mark.parametrize("most_large", [1, 3])
@virtual_time
async def test_only_some_senders_carry_large_bodies_and_light_ones_pass_them(most_large: int) -> None:
    """N8: results of minutes may take every sender, and light work must find one."""
    sender, over = Sender(most_large), asyncio.Event()
    sender.engine.script("complete", *[waits_for(over)] * most_large)
    large = [sender.post(LARGE, id_=f"large-{n}") for n in range(6)]
    await asyncio.sleep(1.0)
    assert len(sender.engine.calls) == most_large
    assert await sender.post(id_="light") is Delivered.ACCEPTED
    assert len(sender.engine.calls) == most_large + 1
    over.set()
    assert await asyncio.gather(*large) == [Delivered.ACCEPTED] * 6


@virtual_time
async def test_no_call_waits_for_a_large_body_to_end() -> None:
    """N8: as a probe it would keep polls and light results waiting for as long as its bytes take."""
    sender, over = Sender(), asyncio.Event()
    sender.engine.script("complete", EngineUnavailable("status 503"), waits_for(over))
    large = sender.post(LARGE)
    await sender.engine.until(lambda engine: len(engine.calls) == 2)
    began = now()
    assert await sender.post(id_="light") is Delivered.ACCEPTED
    assert now() - began < 1.0
    assert not large.done()
    over.set()
    assert await large is Delivered.ACCEPTED
