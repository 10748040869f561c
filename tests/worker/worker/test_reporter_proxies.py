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
from flowherd.errors import CallTooSlow, EngineError, EngineMisconfigured, EngineUnavailable, ForeignReply
from flowherd.testing import FakeEngine
from flowherd.worker.delivery import FAIL_TRIES, Delivered, Delivery
from flowherd.worker.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DONE = Completed(b'{"n":1}', cost_usd="0.5")
FAILED = Failed("EXECUTION_ERROR", "it broke", retryable=True)
LARGE = Completed(b'{"n":"%b"}' % (b"x" * (64 << 10)))
LIMIT_S = 120.0
TOO_SLOW = CallTooSlow("no complete reply within 60 s", in_doubt=True)


def foreign(status: int) -> ForeignReply:
    return ForeignReply(f"status {status}: <html>no</html>", status)


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


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422])
@virtual_time
async def test_a_computed_success_outlives_a_proxy_that_answers_for_a_while(status: int) -> None:
    """N7: a redeployed ingress answers 404 or 413 in HTML for half a minute; the circuit stays open."""
    sender = Sender()
    sender.answer("complete", foreign(status))
    delivery = sender.post()
    await asyncio.sleep(LIMIT_S - 15.0)
    assert (delivery.done(), sender.circuit.failures) == (False, 0)
    sender.engine._scripts.clear()
    assert await delivery is Delivered.ACCEPTED
    assert sender.engine.of("fail") == []
    assert 10 < len(sender.engine.of("complete")) < 100


@pytest.mark.parametrize(
    ("status", "delivery", "code"),
    [
        (413, Delivered.REPLACED, "OUTPUT_TOO_LARGE"),
        (400, Delivered.REPLACED, "INVALID_OUTPUT"),
        (405, Delivered.REPLACED, "INVALID_OUTPUT"),
        (404, Delivered.DROPPED, None),
        (409, Delivered.GONE, None),
    ],
)
@pytest.mark.parametrize("timeout_s", [None, 40.0])
@virtual_time
async def test_a_proxys_answer_counts_once_it_has_been_given_for_as_long_as_the_activity_may_run(
    status: int, delivery: Delivered, code: str | None, timeout_s: float | None
) -> None:
    """N7, E27: from its first answer on; then a foreign 413 is OUTPUT_TOO_LARGE with size and hint."""
    sender = Sender()
    sender.answer("complete", EngineUnavailable("status 502"), 40)  # an outage before is another matter
    sender.answer("complete", foreign(status))
    with capture_logs() as logs:
        ended = sender.post(timeout_s=timeout_s)
        await sender.engine.until(lambda engine: len(engine.calls) > 40)
        began = now()
        assert await ended is delivery
    limit_s = LIMIT_S if timeout_s is None else timeout_s
    assert limit_s <= now() - began <= limit_s + 10.5
    errors = [call.body["error"] for call in sender.engine.of("fail")]
    assert [(error["code"], error["retryable"]) for error in errors] == ([(code, False)] if code else [])
    assert all(
        f"status {status}" in error["message"] or "return a file" in error["message"] for error in errors
    )
    (line,) = [entry for entry in logs if entry["event"] == "outcome_refused_by_a_proxy"]
    assert line["tried_again_for_s"] == limit_s


@virtual_time
async def test_the_failure_that_replaces_an_output_outlives_a_proxy_for_as_long_again() -> None:
    sender = Sender()
    sender.answer("complete", foreign(413))
    sender.answer("fail", foreign(404))
    delivery = sender.post()
    await asyncio.sleep(2 * LIMIT_S - 15.0)
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
    sender.engine.script("complete", Answer(Verdict.REFUSED, words))
    assert await sender.post() is Delivered.REPLACED
    assert now() - began < 0.01


@virtual_time
async def test_a_failure_outlives_a_proxy_too_and_its_tries_are_not_used_up() -> None:
    """N7: the bound on tries is for a failure in doubt, the limit for a proxy's answers."""
    sender = Sender()
    sender.answer("fail", foreign(404), 3)
    sender.answer("fail", EngineUnavailable("status 502"), FAIL_TRIES - 1)
    assert await sender.post(FAILED) is Delivered.ACCEPTED
    sender.answer("fail", foreign(409))
    began = now()
    assert await sender.post(FAILED) is Delivered.GONE
    assert LIMIT_S <= now() - began < LIMIT_S + 10.5


@pytest.mark.parametrize("error", [foreign(413), TOO_SLOW], ids=["foreign", "slow"])
@virtual_time
async def test_an_error_of_one_call_delays_no_other_call(error: EngineError) -> None:
    """N7, N8: one output that a proxy refuses, or that is slow, must not close the worker's circuit."""
    sender = Sender()
    sender.answer("complete", error, 5)
    first = sender.post()
    await sender.engine.until(lambda engine: len(engine.calls) == 5)
    began = now()
    assert await sender.post(id_="a-2") is Delivered.ACCEPTED
    assert (now() - began, sender.circuit.failures) == (0.0, 0)
    assert await first is Delivered.ACCEPTED


@virtual_time
async def test_an_error_of_one_call_alone_does_not_open_a_closed_gate_either() -> None:
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


BROKEN, FORBIDDEN = EngineUnavailable("status 500", in_doubt=True), EngineMisconfigured("status 403")


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
    """Its tries closed the circuit again and again, for 30 s each where a proxy answered 403."""
    sender = Sender()
    with capture_logs() as logs:
        longest_s = await deliver_beside(sender, error, 100.0)
    tries = sum(call.activity_id == "never" for call in sender.engine.calls)
    assert longest_s < 0.5
    assert 10 < tries < 50
    said = [entry["event"] for entry in logs if entry["log_level"] != "debug"]
    assert len(said) < 10
    assert said.count("outcome_not_taken_yet") == 1


@virtual_time
async def test_a_403_about_one_output_alone_is_a_verdict_in_the_end() -> None:
    """N7: a firewall before the engine that dislikes its bytes; all others pass."""
    sender = Sender()
    await deliver_beside(sender, FORBIDDEN, LIMIT_S + 25.0)
    (body,) = (call.body for call in sender.engine.of("fail"))
    assert (body["error"]["code"], body["error"]["retryable"]) == ("INVALID_OUTPUT", False)


@virtual_time
async def test_a_failure_outlives_a_wrong_url_too() -> None:
    """E10: nothing is in doubt, and it lasts until it is corrected."""
    sender = Sender()
    sender.answer("fail", FORBIDDEN, 2 * FAIL_TRIES)
    assert await sender.post(FAILED) is Delivered.ACCEPTED


@virtual_time
async def test_a_403_about_everything_is_no_verdict_about_any_output() -> None:
    """E10: a wrong URL, and a computed success outlives it."""
    sender = Sender()
    sender.answer("complete", FORBIDDEN)
    delivery = sender.post()
    await asyncio.sleep(10 * LIMIT_S)
    assert not delivery.done()
    assert sender.engine.of("fail") == []


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
