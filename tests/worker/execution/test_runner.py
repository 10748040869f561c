"""Attempts from start to their two ends, whatever the handler does (faults.md A3-A10, A20)."""

import asyncio
import logging
import signal
import threading

import pytest
from pydantic import BaseModel, SecretStr
from runner_kit import Phase, Runner
from structlog.testing import capture_logs
from virtual_time import virtual_time

from flowherd import ActivityError, ActivityResult, CancelReason, Registry, RegistryError, Usage, activity
from flowherd.activities_and_outcomes import Completed, Failed, Lost
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity, run_activity

SOON = 0.02  # seconds; limits in these tests run out at once


class Bench:
    """A runner and a way to start handlers on it."""

    def __init__(self, *handlers, environment=None, **settings):
        config = WorkerConfig(worker_id="test", **{"cancel_grace_s": 60.0, **settings})
        self.threads = ThreadPool(8)
        self.registry = Registry.of(handlers)
        self.runner = Runner(self.registry, config, self.threads, environment or RunEnvironment())

    def start(self, name, parameters=None, **fields):
        return self.runner.start(make_activity(name, parameters, **fields))


async def after(coroutine):
    return await asyncio.wait_for(coroutine, 10)


# Outcomes


async def test_output_cost_and_usage_make_the_outcome():
    @activity
    async def work(ctx, n: int):
        ctx.record_usage("p", "m", input_tokens=n)
        return ActivityResult.value("n", n).with_cost("0.5").with_usage(Usage("p", "m", output_tokens=1))

    run = Bench(work).start("work", {"n": "3"})
    outcome = await after(run.outcome())
    await after(run.ended())
    assert outcome == Completed(b'{"n":3}', "0.5", (Usage("p", "m", input_tokens=3, output_tokens=1),))
    assert (run.phase, run.has_ended, run.is_detached) == (Phase.ENDED, True, False)


async def test_what_was_spent_before_a_failure_is_reported_with_it():
    @activity
    def work(ctx):
        ctx.record_cost("0.25")
        raise ActivityError("no stock", code="OUT_OF_STOCK", retryable=False)

    outcome = await after(Bench(work).start("work").outcome())
    assert outcome == Failed("OUT_OF_STOCK", "no stock", retryable=False, cost_usd="0.25")


@pytest.mark.parametrize("name", ["nothing", ""])
async def test_an_unknown_name_may_be_retried_and_the_known_ones_are_listed(name):
    """A10: a rolling deploy heals it; held until its lease it would look stuck."""

    @activity
    async def work(): ...

    outcome = await after(Bench(work).start(name).outcome())
    assert (outcome.code, outcome.retryable) == ("UNKNOWN_ACTIVITY", True)
    assert "knows: work" in outcome.message


async def test_parameters_and_outputs_that_do_not_fit_are_terminal():
    @activity
    async def work(n: int):
        return {"n": {n}}

    bench = Bench(work)
    assert await after(bench.start("work", {"n": "x"}).outcome()) == Failed(
        "INVALID_PARAMETERS",
        "n: Input should be a valid integer, unable to parse string as an integer",
        retryable=False,
    )
    outcome = await after(bench.start("work", {"n": 1}).outcome())
    assert (outcome.code, outcome.retryable) == ("INVALID_OUTPUT", False)


@pytest.mark.parametrize(
    "result",
    [ActivityResult.error("m\0", " ", retryable=False), ActivityResult.value("x", 1).with_cost(-1)],
)
async def test_bad_results_become_failures_the_engine_can_store(result):
    @activity
    async def work():
        return result

    outcome = await after(Bench(work).start("work").outcome())
    assert isinstance(outcome, Failed)
    assert outcome.code.strip()
    assert "\0" not in outcome.message


def test_a_runner_refuses_handlers_it_could_never_call():
    """At start-up, not at the first activity."""

    @activity
    async def work(*args): ...

    with pytest.raises(RegistryError, match=r"activity 'work' .*test_runner.py"):
        Bench(work)


# Hostile handlers

BASE_EXCEPTIONS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(),
    StopAsyncIteration(),
    MemoryError(),
    BaseException("bare"),
    BaseExceptionGroup("several", [SystemExit(1), ValueError("x")]),
    RecursionError("deep"),
]


@pytest.mark.parametrize("exc", BASE_EXCEPTIONS, ids=lambda exc: type(exc).__name__)
@pytest.mark.parametrize("mode", ["loop", "thread of an async def", "thread of a def"])
async def test_whatever_is_raised_fails_the_activity_alone(exc, mode):
    """A3: SystemExit and KeyboardInterrupt end an event loop when they leave a task."""

    async def on_loop():
        raise exc

    def in_thread():
        raise exc

    handler = in_thread if mode == "thread of a def" else on_loop
    options = {"offload": "thread"} if mode == "thread of an async def" else {}
    bench = Bench(activity(name="work", **options)(handler))
    with capture_logs() as lines:
        run = bench.start("work")
        outcome = await after(run.outcome())
        await after(run.ended())
    assert (outcome.code, outcome.retryable) == ("EXECUTION_ERROR", True)
    assert outcome.message.strip()
    [line] = lines
    assert (line["event"], line["code"]) == ("activity_failed", "EXECUTION_ERROR")
    assert f"in {handler.__name__}" in line["exception"]


@pytest.mark.parametrize("options", [{}, {"offload": "thread"}])
async def test_a_cancelled_error_without_a_cancellation_is_a_failure(options):
    """A4: asyncio would swallow it, and the activity would wait for its lease."""

    @activity(**options)
    async def work():
        raise asyncio.CancelledError

    outcome = await after(Bench(work).start("work").outcome())
    assert (outcome.code, outcome.retryable) == ("EXECUTION_ERROR", True)
    assert "although nobody" in outcome.message


async def test_a_handler_that_cancels_its_own_task_fails():
    @activity
    async def work():
        asyncio.current_task().cancel()
        await asyncio.Event().wait()

    outcome = await after(Bench(work).start("work").outcome())
    assert (outcome.code, outcome.retryable) == ("TASK_CANCELLED", True)


class _BreaksItsReport(Exception):
    @property
    def __traceback__(self):
        raise SystemExit

    @property
    def __cause__(self):
        raise SystemExit


async def test_an_exception_that_breaks_its_own_report_still_has_an_outcome():
    """A5."""

    @activity
    async def work():
        raise _BreaksItsReport("x")

    outcome = await after(Bench(work).start("work").outcome())
    assert outcome.code == "EXECUTION_ERROR"
    assert outcome.message


class _Login(BaseModel):
    password: SecretStr


async def test_secrets_appear_neither_in_the_message_nor_in_the_log(caplog):
    """A12: parameters marked secret and secrets of the environment."""

    @activity
    async def work(login: _Login):
        raise ValueError(f"{login.password.get_secret_value()} and env-canary refused")

    environment = RunEnvironment(secrets=("env-canary",))
    bench = Bench(work, environment=environment)
    with caplog.at_level(logging.DEBUG):
        outcome = await after(bench.start("work", {"password": "param-canary"}).outcome())
    assert outcome.message == "*** and *** refused"
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert "canary" not in logged.replace("and env-canary refused", "")  # the quoted source line, not a value


async def test_asyncio_run_in_a_loop_handler_is_explained_and_works_in_a_thread():
    """A20."""

    async def inner():
        return 1

    async def on_loop():
        coroutine = inner()
        try:
            return asyncio.run(coroutine)
        finally:
            coroutine.close()

    def in_thread():
        return asyncio.run(inner())

    bench = Bench(activity(on_loop), activity(in_thread))
    failed = await after(bench.start("on_loop").outcome())
    assert 'use offload="thread"' in failed.message
    assert await after(bench.start("in_thread").outcome()) == Completed(b'{"result":1}')


async def test_a_loop_bound_object_used_in_a_thread_is_explained():
    future = asyncio.get_running_loop().create_future()

    @activity(offload="thread")
    async def work():
        await future

    outcome = await after(Bench(work).start("work").outcome())
    assert "inside a handler that runs in a thread" in outcome.message


async def test_an_async_function_behind_a_plain_decorator_is_awaited():
    async def inner():
        return 2

    @activity
    def work():
        return inner()

    assert await after(Bench(work).start("work").outcome()) == Completed(b'{"result":2}')


async def test_handlers_run_off_the_main_thread_keep_signals_as_they_were():
    """A13, the part that can be promised in a thread: signal handlers cannot be set there at all."""

    @activity
    def work():
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    before = signal.getsignal(signal.SIGUSR2)
    assert (await after(Bench(work).start("work").outcome())).code == "EXECUTION_ERROR"
    assert signal.getsignal(signal.SIGUSR2) is before


# Time limits


@pytest.mark.parametrize(
    ("engine_s", "own_s", "limit_s"),
    [(None, None, 300.0), (20, None, 20), (20, 7, 7), (5, 7, 5), (None, 900, 900)],
)
async def test_the_limit_is_the_smaller_of_both_else_the_handlers_else_the_workers(engine_s, own_s, limit_s):
    @activity(timeout_s=own_s)
    async def work(): ...

    run = Bench(work).start("work", timeout_s=engine_s)
    assert run.limit_s == limit_s
    await after(run.ended())


@pytest.mark.parametrize("options", [{}, {"offload": "thread"}])
async def test_a_handler_past_its_limit_is_cancelled_and_fails_when_it_has_ended(options):
    """A7: local limit, cancellation, TIMEOUT."""
    ended = []

    @activity(**options)
    async def work(ctx):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ctx.cancel_reason)

    with capture_logs() as lines:
        run = Bench(work).start("work", timeout_s=SOON)
        outcome = await after(run.outcome())
        await after(run.ended())
    assert outcome == Failed("TIMEOUT", "the handler took longer than its limit of 0.02 s", retryable=True)
    assert ended == [CancelReason.TIMEOUT]
    [line] = lines
    assert (line["event"], line["code"], line["retryable"]) == ("activity_failed", "TIMEOUT", True)
    assert line["at"].endswith("in work")


async def test_a_late_success_is_dropped_and_counted():
    """A9: the engine may have handed the activity out again."""

    @activity
    async def work():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"late": True}

    bench = Bench(work)
    run = bench.start("work", timeout_s=SOON)
    assert (await after(run.outcome())).code == "TIMEOUT"
    await after(run.ended())
    assert (run.dropped, bench.runner.dropped) == (True, 1)


async def test_swallowed_cancellation_is_reported_after_the_grace_and_stays_a_detached():
    """A8: the slot is not free before the handler has really ended."""
    let_go, cancels = asyncio.Event(), []

    @activity
    async def work():
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                cancels.append(1)

    run = Bench(work, cancel_grace_s=SOON).start("work", timeout_s=SOON)
    assert (await after(run.outcome())).code == "TIMEOUT"
    assert (run.is_detached, run.has_ended, run.phase) == (True, False, Phase.DETACHED)
    let_go.set()
    await after(run.ended())
    assert run.phase is Phase.ENDED
    assert cancels == [1, 1], "asked at the limit and once more at the end of the grace"


@virtual_time
async def test_a_thread_past_its_limit_sees_that_it_is_cancelled_and_is_a_detached_until_it_ends():
    """The clock stands until the thread has begun, however long a busy machine takes for that."""
    begun, let_go, seen = threading.Event(), threading.Event(), []

    @activity
    def work(ctx):
        begun.set()
        let_go.wait(10)
        seen.append((ctx.cancelled, ctx.cancel_reason))
        ctx.raise_if_cancelled()

    run = Bench(work, cancel_grace_s=SOON).start("work", timeout_s=SOON)
    assert begun.wait(10)
    assert (await run.outcome()).code == "TIMEOUT"
    assert run.is_detached
    let_go.set()
    await run.ended()
    assert seen == [(True, CancelReason.TIMEOUT)]
    assert (await run.outcome()).code == "TIMEOUT"


async def test_without_grace_the_outcome_is_known_at_the_limit():
    let_go = threading.Event()

    @activity
    def work():
        let_go.wait(10)

    run = Bench(work, cancel_grace_s=0).start("work", timeout_s=SOON)
    assert (await after(run.outcome())).code == "TIMEOUT"
    let_go.set()
    await after(run.ended())


# Cancellation by the worker


@pytest.mark.parametrize("options", [{}, {"offload": "thread"}])
async def test_a_lost_lease_is_known_at_once_and_nothing_is_reported(options):
    begun, caught = threading.Event(), []

    @activity(**options)
    async def work(ctx):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            caught.append(ctx.cancel_reason)
            raise

    run = Bench(work).start("work")
    while not begun.is_set():  # noqa: ASYNC110 - the handler may be in another thread
        await asyncio.sleep(0)
    run.cancel(CancelReason.LEASE_LOST)
    assert isinstance(run.known_outcome, Lost)
    await after(run.ended())
    assert caught == [CancelReason.LEASE_LOST]
    assert isinstance(await run.outcome(), Lost)


async def test_a_stopping_worker_gives_the_handler_its_grace_and_hands_the_work_back():
    tidied = []

    @activity
    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tidied.append(1)

    run = Bench(work).start("work")
    await asyncio.sleep(0)
    run.cancel(CancelReason.SHUTDOWN)
    outcome = await after(run.outcome())
    assert (outcome.code, outcome.retryable, tidied) == ("WORKER_SHUTDOWN", True, [1])


@virtual_time
@pytest.mark.parametrize(("grace_s", "left_s"), [(5.0, 2.0), (1.0, 0.2)])
async def test_n4_a_handler_that_is_frozen_within_its_grace_has_the_rest_of_it_afterwards(grace_s, left_s):
    """N4: it was stopped, then the whole host was frozen."""
    disk_answers = asyncio.Event()

    @activity
    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await disk_answers.wait()

    bench = Bench(work, cancel_grace_s=grace_s)
    run = bench.start("work")
    await asyncio.sleep(0)
    run.cancel(CancelReason.SHUTDOWN)
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().now += 30.0
    await asyncio.sleep(0.1)  # its timer is late: the keeper may still say why
    bench.runner.worker.table.stood_still(30.0)
    await asyncio.sleep(left_s)
    assert run.phase is Phase.STOPPING
    disk_answers.set()
    await run.ended()


async def test_the_first_reason_decides_but_a_lost_lease_forbids_any_report():
    let_go = asyncio.Event()

    @activity
    async def work():
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    run = Bench(work).start("work", timeout_s=60)
    await asyncio.sleep(0)
    run.cancel(CancelReason.TIMEOUT)
    run.cancel(CancelReason.SHUTDOWN)
    assert run.known_outcome is None
    run.cancel(CancelReason.LEASE_LOST)
    assert isinstance(await after(run.outcome()), Lost)
    let_go.set()
    await after(run.ended())


async def test_a_run_cancelled_before_its_first_step_ends_without_calling_the_handler():
    called = []

    @activity
    async def work():
        called.append(1)

    run = Bench(work).start("work")
    run.cancel(CancelReason.SHUTDOWN)
    await after(run.ended())
    assert (await run.outcome()).code == "WORKER_SHUTDOWN"
    assert called == []


async def test_cancelling_an_ended_run_changes_nothing():
    @activity
    async def work(): ...

    run = Bench(work).start("work")
    outcome = await after(run.outcome())
    run.cancel(CancelReason.LEASE_LOST)
    assert await run.outcome() == outcome == Completed(b"{}")


async def test_cancelling_a_wait_does_not_affect_the_attempt():
    """The worker cancels its own wait; the attempt must not be affected."""
    let_go = asyncio.Event()

    @activity
    async def work():
        await let_go.wait()

    run = Bench(work).start("work")
    waiting = [asyncio.create_task(run.outcome()), asyncio.create_task(run.ended())]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    let_go.set()
    assert await after(run.outcome()) == Completed(b"{}")


# max_concurrent


async def test_attempts_beyond_max_concurrent_wait_in_order_and_their_limit_has_not_begun():
    started, gates = [], [asyncio.Event() for _ in range(3)]

    @activity(max_concurrent=1)
    async def work(n: int):
        started.append(n)
        await gates[n].wait()

    bench = Bench(work)
    runs = [bench.start("work", {"n": n}, number=n + 1) for n in range(3)]
    await asyncio.sleep(0)
    assert started == [0]
    assert [run.phase for run in runs] == [Phase.RUNNING, Phase.WAITING, Phase.WAITING]
    runs[1].cancel(CancelReason.SHUTDOWN)
    assert runs[1].has_ended
    gates[0].set()
    await after(runs[0].ended())
    gates[2].set()
    await after(runs[2].ended())
    assert started == [0, 2]


async def test_a_detached_counts_against_max_concurrent():
    begun, let_go = threading.Event(), threading.Event()

    @activity(max_concurrent=1)
    def work(n: int):
        if n == 0:
            begun.set()
            let_go.wait(10)

    bench = Bench(work, cancel_grace_s=0)
    first = bench.start("work", {"n": 0}, timeout_s=SOON)
    second = bench.start("work", {"n": 1}, number=2)
    assert begun.wait(10)
    await after(first.outcome())
    assert (first.is_detached, second.phase) == (True, Phase.WAITING)
    let_go.set()
    assert await after(second.outcome()) == Completed(b"{}")


# Threads


async def test_a_thousand_blocked_handlers_do_not_hold_up_the_loop():
    """A15: their threads are ours, not the loop's own executor."""
    let_go = threading.Event()

    @activity
    def block():
        let_go.wait(20)

    @activity
    async def quick(): ...

    bench = Bench(block, quick)
    blocked = [bench.start("block", number=n) for n in range(1, 1001)]
    assert await after(bench.start("quick").outcome()) == Completed(b"{}")
    assert await after(asyncio.get_running_loop().run_in_executor(None, lambda: 1)) == 1
    let_go.set()
    for run in blocked:
        await after(run.ended())
    assert bench.threads.threads <= 8


async def test_a_handler_may_end_after_its_loop_is_closed():
    """The worker has ended; the thread's report has no receiver and must not raise."""
    let_go, ended, crashes = threading.Event(), threading.Event(), []
    hook, threading.excepthook = threading.excepthook, crashes.append

    @activity
    def work():
        let_go.wait(10)
        ended.set()

    async def leave_early():
        Bench(work).start("work")
        await asyncio.sleep(0)

    try:
        other = threading.Thread(target=lambda: asyncio.run(leave_early()))
        other.start()
        other.join(10)
        let_go.set()
        assert ended.wait(10)
    finally:
        threading.excepthook = hook
    assert crashes == []


async def test_every_value_and_exception_ends_in_exactly_one_outcome():
    """A table of odd things a handler may return."""
    for value in (object(), b"x", {1: 2}, float("nan"), asyncio.sleep, lambda: 1, type, ..., NotImplemented):

        async def work(value=value):
            return value

        result = await after(run_activity(activity(name="work")(work), {}))
        assert result.failure.code == "INVALID_OUTPUT"


async def test_a_handler_for_an_isolate_is_refused_where_there_are_none():
    """Silently running it elsewhere would break its promise."""

    @activity(offload="process")
    async def work():
        """Never runs."""

    with pytest.raises(RegistryError, match=r'offload="process" needs the supervisor.*`flowherd run`'):
        Bench(work)
