"""The retry circuit: one probe while the engine is away, one line per change of state."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time

from flowherd.backoff import Backoff
from flowherd.client.circuit import Circuit
from flowherd.errors import (
    EngineDisconnected,
    EngineError,
    EngineMisconfigured,
    EngineUnauthorized,
    EngineUnavailable,
    ForeignReply,
)


class Calls:
    """A call that fails with the errors it is given, then succeeds; remembers when it was made."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.at: list[float] = []
        self.under_way = 0
        self.most_under_way = 0

    async def __call__(self) -> str:
        self.at.append(now())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0.01)
        self.under_way -= 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def refused() -> EngineUnavailable:
    return EngineUnavailable("connection refused")


def dropped() -> EngineDisconnected:
    return EngineDisconnected("closed by the other side", in_doubt=True)


async def until_done(circuit: Circuit, call: Calls) -> str:
    while True:
        try:
            return await circuit.through(call)
        except EngineUnavailable:
            continue


@virtual_time
async def test_an_open_gate_lets_all_calls_through_together() -> None:
    circuit, call = Circuit(), Calls()
    assert await asyncio.gather(*(circuit.through(call) for _ in range(20))) == ["done"] * 20
    assert call.most_under_way == 20
    assert repr(circuit) == "<Circuit [closed]>"


@virtual_time
async def test_an_error_closes_the_gate_and_is_raised() -> None:
    circuit = Circuit()
    with pytest.raises(EngineUnavailable, match="refused"):
        await circuit.through(Calls(refused()))
    assert circuit.failures == 1
    assert repr(circuit) == "<Circuit [1 failures in a row]>"


@virtual_time
async def test_calls_that_failed_together_count_once() -> None:
    """One lost connection pool of 32 calls is one failure, not thirty-two."""
    circuit = Circuit()
    call = Calls(*[refused() for _ in range(32)])
    results = await asyncio.gather(*(circuit.through(call) for _ in range(32)), return_exceptions=True)
    assert all(isinstance(result, EngineUnavailable) for result in results)
    assert circuit.failures == 1


@virtual_time
async def test_an_open_circuit_lets_one_call_through_at_a_time_whatever_else_waits() -> None:
    """Faults E5: one retry circuit per child, not per result."""
    circuit = Circuit()
    first = Calls(refused())
    with pytest.raises(EngineUnavailable):
        await circuit.through(first)
    call = Calls(*[refused() for _ in range(8)])
    await asyncio.gather(*(until_done(circuit, call) for _ in range(32)))
    probes = call.at[:9]
    assert len(call.at) == 8 + 32
    assert all(later - earlier >= 0.01 for earlier, later in itertools.pairwise(probes))
    assert now() - 1000.0 > 2.0


@virtual_time
async def test_probes_are_spaced_by_the_backoff_and_all_calls_flow_after_the_first_success() -> None:
    circuit = Circuit(Backoff(base_s=1.0, cap_s=8.0), random.Random(4))
    call = Calls(*[refused() for _ in range(6)])
    await until_done(circuit, call)
    gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(call.at)]
    for gap, ceiling in zip(gaps, [1, 2, 4, 8, 8, 8], strict=True):
        assert 0.1 <= gap - 0.01 <= ceiling + 0.001
    begun = now()
    await asyncio.gather(*(circuit.through(call) for _ in range(10)))
    assert now() - begun < 0.02


@virtual_time
async def test_an_outage_of_20_s_costs_few_tries_and_ends_soon_after_the_engine_is_back() -> None:
    """Scorecard M12: at most 15 tries a child, 8 results waiting; the first success within 10 s.

    What stands before the engine accepts connections and drops them, as a proxy does.
    """
    for seed in range(200):
        circuit, back_at, tries = Circuit(rng=random.Random(seed)), now() + 20.0, 0

        async def call(circuit: Circuit = circuit, back_at: float = back_at) -> None:
            nonlocal tries
            if now() < back_at:
                tries += 1
                raise dropped()

        async def deliver(due_s: float, circuit: Circuit = circuit, call=call) -> None:
            await asyncio.sleep(due_s)
            while True:
                try:
                    return await circuit.through(call)
                except EngineUnavailable:
                    continue

        await asyncio.gather(*(deliver(number / 8) for number in range(8)))
        assert tries <= 15, f"seed {seed}"
        assert now() - back_at <= 10.0


@virtual_time
async def test_a_connection_that_had_gone_idle_costs_one_call_and_no_delay_and_is_not_news() -> None:
    """Faults E4: an engine that was restarted has dropped what was kept alive; the second call finds it well."""
    circuit, call, begun = Circuit(Backoff(base_s=5.0)), Calls(dropped()), now()
    with capture_logs() as logs:
        assert await until_done(circuit, call) == "done"
    assert now() - begun < 0.03
    assert len(call.at) == 2
    assert logs == []


@virtual_time
async def test_connections_lost_together_are_followed_by_one_call_that_finds_out_for_all() -> None:
    """Scorecard M12: eight calls were under way when the engine went; it is asked once more, not eight times."""
    circuit = Circuit(Backoff(base_s=5.0), random.Random(1))
    call = Calls(*[dropped() for _ in range(8)], refused(), refused())
    tries = [asyncio.create_task(until_done(circuit, call)) for _ in range(8)]
    await asyncio.sleep(0.4)
    assert len(call.at) == 8 + 1
    assert circuit.failures == 2
    await asyncio.gather(*tries)
    assert len(call.at) == 8 + 2 + 8


@pytest.mark.parametrize(
    ("asked_s", "least_s", "most_s"), [(7.0, 7.0, 7.1), (1e9, 60.0, 60.1), (0.0, 0.01, 0.1)]
)
@virtual_time
async def test_the_engines_wish_is_honoured_up_to_a_minute(
    asked_s: float, least_s: float, most_s: float
) -> None:
    """Faults E7."""
    circuit = Circuit()
    call = Calls(EngineUnavailable("status 429", retry_after_s=asked_s))
    await until_done(circuit, call)
    assert least_s - 0.001 <= call.at[1] - call.at[0] - 0.01 <= most_s + 0.001


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize(
    "error",
    [
        ForeignReply("status 404: <html>"),
        EngineMisconfigured("TLS: no"),
        EngineUnavailable("status 502"),
        EngineUnauthorized("status 401"),
    ],
)
@virtual_time
async def test_a_blip_costs_itself(error: EngineError, seed: int) -> None:
    """N24, E10: after 4 s of any errors, the next call is made within 5 s."""
    error.is_of_the_call = False
    circuit, began = Circuit(rng=random.Random(seed)), now()

    async def call() -> None:
        if now() - began < 4.0:
            raise error

    while True:
        with contextlib.suppress(EngineError):
            await circuit.through(call)
            break
    assert now() - began < 8.6


@virtual_time
async def test_one_line_is_logged_per_change_of_state() -> None:
    """Faults E1: not one per try."""
    circuit = Circuit()
    call = Calls(
        *[refused() for _ in range(5)],
        EngineMisconfigured("POST http://x/api: status 302"),
        EngineUnauthorized("status 401"),
        *[refused() for _ in range(3)],
    )
    with capture_logs() as logs:
        for _ in range(10):
            with pytest.raises(Exception, match=r"refused|302|401"):
                await circuit.through(call)
        await circuit.through(call)
        await circuit.through(call)
    assert [entry["event"] for entry in logs] == [
        "engine_unreachable",
        "engine_misconfigured",
        "engine_refuses_our_token",
        "engine_unreachable",
        "engine_reachable_again",
    ]
    assert logs[1]["reason"] == "POST http://x/api: status 302"
    assert logs[-1]["after_s"] > 1


@virtual_time
async def test_hurry_lets_the_next_call_pass_at_once() -> None:
    """At the end of a drain there is no time left to wait for a Retry-After of a minute."""
    circuit = Circuit()
    call = Calls(EngineUnavailable("status 503", retry_after_s=60.0))
    with pytest.raises(EngineUnavailable):
        await circuit.through(call)
    waiting = asyncio.create_task(circuit.through(call))
    await asyncio.sleep(5.0)
    assert len(call.at) == 1
    circuit.hurry()
    assert await waiting == "done"
    assert now() - 1000.0 < 5.1


@virtual_time
async def test_hurry_begins_the_delays_anew() -> None:
    """An engine that comes back within the last second of a drain was not asked again after the next failure."""
    circuit = Circuit()
    call = Calls(*[refused()] * 14)
    for _ in range(12):
        with pytest.raises(EngineUnavailable):
            await circuit.through(call)
    waiting = asyncio.create_task(until_done(circuit, call))
    await asyncio.sleep(0)
    circuit.hurry()
    began = now()
    assert await waiting == "done"
    assert now() - began < 0.65


@virtual_time
async def test_a_waiting_call_that_is_cancelled_leaves_the_probe_to_the_next() -> None:
    circuit = Circuit()
    call = Calls(EngineUnavailable("status 503", retry_after_s=10.0))
    with pytest.raises(EngineUnavailable):
        await circuit.through(call)
    first = asyncio.create_task(circuit.through(call))
    second = asyncio.create_task(circuit.through(call))
    await asyncio.sleep(1.0)
    first.cancel()
    assert await second == "done"
    assert len(call.at) == 2


@virtual_time
async def test_an_exception_that_is_not_about_the_engine_neither_closes_nor_opens_the_circuit() -> None:
    circuit = Circuit()
    with pytest.raises(ZeroDivisionError):
        await circuit.through(Calls(ZeroDivisionError()))
    assert circuit.failures == 0
    with pytest.raises(EngineUnavailable):
        await circuit.through(Calls(refused()))
    with pytest.raises(ZeroDivisionError):
        await circuit.through(Calls(ZeroDivisionError()))
    assert circuit.failures == 1
