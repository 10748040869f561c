"""What handlers see: ids, state, usage, cancellation; the same names for async and plain handlers."""

import asyncio
import itertools
import logging
import threading
from decimal import Decimal

import pytest

from flowherd import ActivityContext, CancelReason, LeaseLost, SyncActivityContext, Usage
from flowherd.execution.run_environment import RunEnvironment, ShutdownSignal
from flowherd.sdk import context
from flowherd.sdk.context import YIELD_EVERY_S
from flowherd.sdk.run_state import RunState
from flowherd.sdk.spending import Costs
from flowherd.testing import make_activity


def state_of(environment=None, **fields):
    return RunState(make_activity("work", **fields), environment or RunEnvironment())


@pytest.mark.parametrize("kind", [ActivityContext, SyncActivityContext])
def test_a_handler_sees_its_attempt_and_its_process(kind):
    environment = RunEnvironment(process_index=3, state={"pool": 1})
    ctx = kind(state_of(environment, key="step", signal_data={"s": 1}, settings={"retry": {}}))
    assert (ctx.activity_key, ctx.activity_name, ctx.worker) == ("step", "work", "py-std")
    assert ctx.idempotency_key == ctx.activity_id
    assert (ctx.signal, ctx.settings, ctx.state, ctx.process_index) == (
        {"s": 1},
        {"retry": {}},
        {"pool": 1},
        3,
    )
    assert (ctx.cancelled, ctx.cancel_reason, ctx.shutdown_requested) == (False, None, False)
    assert "step" not in repr(ctx)


def test_both_contexts_offer_the_same_names():
    """A handler that moves from async to a thread keeps its text."""
    assert set(dir(ActivityContext)) == set(dir(SyncActivityContext))


def test_the_logger_adds_ids_and_keeps_the_callers_extra(caplog):
    ctx = ActivityContext(state_of(key="step"))
    assert ctx.logger is ctx.logger
    with caplog.at_level(logging.INFO):
        ctx.logger.info("moved %d", 3, extra={"rows": 3})
    (record,) = caplog.records
    assert (record.getMessage(), record.activity_key, record.rows) == ("moved 3", "step", 3)
    assert record.activity_id == ctx.activity_id


async def test_heartbeats_in_a_tight_loop_give_up_the_loop_now_and_then_only(monkeypatch):
    """A turn of the loop at each of ten thousand calls would cost a handler more than its work."""
    clock = itertools.count(0.0, YIELD_EVERY_S / 100)
    monkeypatch.setattr(context, "monotonic", clock.__next__)
    ctx, turns = ActivityContext(state_of()), []
    others = asyncio.create_task(_note_each_turn(turns))
    for _ in range(10_000):
        await ctx.heartbeat()
    others.cancel()
    assert 90 <= len(turns) <= 110


async def _note_each_turn(turns):
    while True:
        turns.append(1)
        await asyncio.sleep(0)


async def test_a_heartbeat_gives_other_tasks_a_turn():
    ctx, turns = ActivityContext(state_of()), []
    task = asyncio.create_task(_note(turns))
    await ctx.heartbeat("50 %", {"rows": 3})
    assert turns == [1]
    await task


async def _note(turns):
    turns.append(1)


@pytest.mark.parametrize("reason", [CancelReason.TIMEOUT, CancelReason.SHUTDOWN])
async def test_a_heartbeat_raises_only_for_a_lost_lease(reason):
    """A19: a timeout reaches a handler as cancellation, not through the heartbeat."""
    state = state_of()
    state.cancel_reason = reason
    await ActivityContext(state).heartbeat()
    SyncActivityContext(state).heartbeat()
    with pytest.raises(asyncio.CancelledError):
        SyncActivityContext(state).raise_if_cancelled()


async def test_a_lost_lease_is_raised_by_heartbeat_past_except_exception():
    state = state_of()
    state.cancel_reason = CancelReason.LEASE_LOST
    assert not issubclass(LeaseLost, Exception)
    with pytest.raises(LeaseLost):
        await ActivityContext(state).heartbeat()
    with pytest.raises(LeaseLost):
        SyncActivityContext(state).heartbeat()
    with pytest.raises(LeaseLost):
        ActivityContext(state).raise_if_cancelled()


async def test_a_lease_lost_while_the_heartbeat_yields_is_raised_by_it():
    state = state_of()
    asyncio.get_running_loop().call_soon(setattr, state, "cancel_reason", CancelReason.LEASE_LOST)
    with pytest.raises(LeaseLost):
        await ActivityContext(state).heartbeat()


async def test_the_shutdown_signal_wakes_waiters_of_every_loop_and_thread():
    """Handlers with offload="thread" wait on a loop of their own."""
    environment = RunEnvironment()
    ctx, sync_ctx = ActivityContext(state_of(environment)), SyncActivityContext(state_of(environment))
    waiting = asyncio.create_task(ctx.wait_for_shutdown())
    heard = []
    threads = [
        threading.Thread(target=lambda: heard.append(asyncio.run(ctx.wait_for_shutdown()))),
        threading.Thread(target=lambda: heard.append(sync_ctx.wait_for_shutdown(10))),
    ]
    for thread in threads:
        thread.start()
    while len(environment.shutdown._waiters) < 2:  # noqa: ASYNC110  # one of them is in another loop
        await asyncio.sleep(0)
    assert sync_ctx.wait_for_shutdown(0) is False
    environment.shutdown.request()
    await asyncio.wait_for(waiting, 5)
    for thread in threads:
        thread.join(5)
    assert sorted(heard, key=str) == [None, True]
    await ctx.wait_for_shutdown()
    assert ctx.shutdown_requested


async def test_a_cancelled_wait_for_shutdown_leaves_nothing_behind():
    signal = ShutdownSignal()
    task = asyncio.create_task(signal.wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not signal._waiters
    signal.request()


def test_usage_is_summed_per_provider_and_model():
    state = state_of()
    ctx = SyncActivityContext(state)
    for _ in range(3):
        ctx.record_usage("anthropic", "m", input_tokens=10, output_tokens=2, cost_usd="0.1")
    ctx.record_usage("anthropic", "m", cache_read_tokens=5)
    ctx.record_usage("openai", "m", cache_storage_token_hours=0.5)
    ctx.record_cost(Decimal("0.015"))
    ctx.record_cost(1)
    assert state.costs.cost_usd == "1.015"
    assert state.costs.usage == (
        Usage("anthropic", "m", input_tokens=30, output_tokens=6, cost_usd="0.3"),
        Usage("anthropic", "m", cache_read_tokens=5),
        Usage("openai", "m", cache_storage_token_hours=0.5),
    )


def test_counters_beyond_32_bits_go_into_another_entry():
    """protocol.md §6.1: a larger number is refused with a 422 text."""
    costs = Costs()
    for _ in range(3):
        costs.add_usage(Usage("p", "m", input_tokens=2**31))
    assert sum(entry.input_tokens for entry in costs.usage) == 3 * 2**31
    assert all(entry.input_tokens < 2**32 for entry in costs.usage)


@pytest.mark.parametrize("cost", [-1, "x", float("nan"), float("inf"), "1e300", None])
def test_costs_the_engine_would_refuse_are_refused_at_once(cost):
    with pytest.raises(ValueError, match="between 0 and"):
        SyncActivityContext(state_of()).record_cost(cost)


@pytest.mark.parametrize("cost", ["1e-30", 1e-7, Decimal("0.1234567890123456"), 10**12])
def test_costs_are_written_as_plain_decimals(cost):
    costs = Costs()
    costs.add_cost(cost)
    assert "e" not in costs.cost_usd.lower()
    assert len(costs.cost_usd) < 30


@pytest.mark.parametrize(
    "usage",
    [
        {"provider": ""},
        {"model": ""},
        {"input_tokens": -1},
        {"output_tokens": 2**32},
        {"input_tokens": 1.5},
        {"cache_storage_token_hours": float("nan")},
    ],
)
def test_usage_the_engine_would_refuse_is_refused_at_once(usage):
    with pytest.raises(ValueError):
        SyncActivityContext(state_of()).record_usage(**{"provider": "p", "model": "m", **usage})
