"""Handlers on the loop: each in a task of its own, without a trace of one in the next, whatever makes the tasks."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest
from runner_kit import Phase, Runner

from flowherd import CancelReason, Registry, activity
from flowherd.activities_and_outcomes import Completed, Failed
from flowherd.execution import on_loop
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.loop_meter import LIGHT_S
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from runner_kit import Run

CEILING_S = 10.0


class Loop:
    """A runner with handlers on its loop."""

    def __init__(self, *handlers: Any, **settings: Any) -> None:
        config = WorkerConfig(worker_id="test", **settings)
        environment = RunEnvironment()
        self.meter = environment.meter
        self.runner = Runner(Registry.of(handlers), config, ThreadPool(1), environment)

    def start(self, name: str, times: int = 1, **parameters: Any) -> list[Run]:
        return [
            self.runner.start(make_activity(name, {"n": n, **parameters}, number=n + 1)) for n in range(times)
        ]

    async def outcomes(self, runs: list[Run]) -> list[Any]:
        async with asyncio.timeout(CEILING_S):
            for run in runs:
                await run.ended()
            return [await run.outcome() for run in runs]


def here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def test_handlers_begin_in_their_order_each_in_a_task_of_its_own() -> None:
    """N10: what a library keeps by task must not take two handlers for one."""
    seen: list[tuple[int, asyncio.Task[Any]]] = []

    @activity
    async def quick(n: int) -> None:
        seen.append((n, here()))

    loop = Loop(quick)
    runs = loop.start("quick", 20)
    assert await loop.outcomes(runs) == [Completed(b"{}")] * 20
    assert [n for n, _ in seen] == list(range(20))
    assert len({id(task) for _, task in seen}) == 20


async def test_a_handler_that_waits_has_its_task_to_itself_and_its_task_ends_with_it() -> None:
    """What keeps a writer about tasks, such as a session for each, must not take two handlers for one."""
    tasks: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    @activity
    async def waits(n: int) -> int:
        tasks.append(here())
        await go_on.wait()
        assert here() is tasks[n]
        return n

    @activity
    async def quick(n: int) -> None:
        assert here() not in tasks

    loop = Loop(waits, quick)
    runs = loop.start("waits", 10)
    await loop.outcomes(loop.start("quick", 10))  # the loop does not wait for waiting handlers
    assert len(set(tasks)) == 10
    go_on.set()
    assert await loop.outcomes(runs) == [Completed(b'{"result":%d}' % n) for n in range(10)]
    await asyncio.sleep(0)
    assert all(task.done() and not task.cancelled() for task in tasks)


@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_handler_sets_in_its_context_is_its_own(*, waits: bool) -> None:
    """Also over its waits; the next one begins with what the worker had."""
    user: ContextVar[str] = ContextVar("user", default="nobody")
    user.set("worker")
    seen: list[str] = []

    @activity
    async def sets(n: int) -> None:
        seen.append(user.get())
        user.set(f"user {n}")
        if waits:
            await asyncio.sleep(0)
        assert user.get() == f"user {n}"

    loop = Loop(sets)
    for _ in range(2):
        assert await loop.outcomes(loop.start("sets", 5)) == [Completed(b"{}")] * 5
    assert seen == ["worker"] * 10
    assert user.get() == "worker"


async def test_a_cancellation_that_a_handler_leaves_behind_does_not_meet_the_next() -> None:
    """It had cancelled its own task and returned all the same."""

    @activity
    async def leaves(n: int) -> int:
        if n == 1:
            here().cancel()
        return n

    @activity
    async def waits(n: int) -> None:
        await asyncio.sleep(0)

    loop = Loop(leaves, waits)
    runs = [*loop.start("leaves", 4), *loop.start("waits", 4)]
    assert await loop.outcomes(runs) == [
        *(Completed(b'{"result":%d}' % n) for n in range(4)),
        *[Completed(b"{}")] * 4,
    ]


async def test_the_next_handler_has_another_task() -> None:
    """Such as a library with one session for each task."""
    writer: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    @activity
    async def keeps(n: int) -> int:
        return writer.setdefault(here(), n)

    loop = Loop(keeps)
    assert await loop.outcomes(loop.start("keeps", 5)) == [Completed(b'{"result":%d}' % n) for n in range(5)]


async def test_the_loop_has_its_turn_between_handlers_that_compute() -> None:
    """A batch of them would keep replies, timers and deliveries waiting."""
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        asyncio.get_running_loop().call_soon(count)

    @activity
    async def computes(n: int) -> int:
        until = time.perf_counter() + 0.003
        while time.perf_counter() < until:
            pass
        return rounds

    loop = Loop(computes)
    count()
    outcomes = await loop.outcomes(loop.start("computes", 10))
    assert len({outcome.output for outcome in outcomes}) == 10


async def test_handlers_that_wait_for_their_turn_take_no_step_in_the_turns_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a batch of hundreds the loop would do little else than ask each of them again in each round."""
    steps = 0

    class Counted:
        def __init__(self, work: Any) -> None:
            self.work = work

        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            nonlocal steps
            steps += 1
            return self.work.send(None)

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        async def around() -> Any:
            return await Counted(work)

        return asyncio.Task(around(), loop=loop, **options)

    begun: list[int] = []

    @activity
    async def quick(n: int) -> None:
        begun.append(n)

    monkeypatch.setattr(on_loop, "TURN_S", 0.0)  # one begins in each turn
    loop = Loop(quick, concurrency=100)
    asyncio.get_running_loop().set_task_factory(factory)
    await loop.outcomes(loop.start("quick", 100))
    assert begun == list(range(100))
    assert steps <= 200  # to wait, and to run


async def test_one_that_is_cancelled_while_it_waits_for_its_turn_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []

    @activity
    async def quick(n: int) -> None:
        begun.append(n)

    monkeypatch.setattr(on_loop, "TURN_S", 0.0)
    loop = Loop(quick)
    runs = loop.start("quick", 5)
    await asyncio.sleep(0)  # the first has begun, the others wait
    tasks = [task for task in asyncio.all_tasks() if "_life" in repr(task)]
    assert len(tasks) >= 4
    for task in tasks:
        task.cancel()
    await loop.outcomes(runs)
    assert sorted(begun) == list(range(5))


async def test_what_is_told_to_stop_before_its_turn_never_begins() -> None:
    begun: list[int] = []

    @activity
    async def quick(n: int) -> None:
        begun.append(n)

    loop = Loop(quick)
    runs = loop.start("quick", 3)
    assert {run.phase for run in runs} == {Phase.WAITING}
    runs[1].cancel(CancelReason.SHUTDOWN)
    outcomes = await loop.outcomes(runs)
    assert begun == [0, 2]
    assert isinstance(outcomes[1], Failed)
    assert outcomes[1].code == "WORKER_SHUTDOWN"


async def test_code_that_cancels_every_task_ends_no_handler_that_has_not_begun() -> None:
    """Such as an app's own clean-up: handlers that have not begun get another task."""
    ended: list[int] = []

    @activity
    async def quick(n: int) -> None:
        ended.append(n)

    @activity
    async def waits(n: int) -> None:
        await asyncio.sleep(0)
        ended.append(n)

    loop = Loop(quick, waits)
    await loop.outcomes(loop.start("waits", 1))
    runs = [*loop.start("quick", 3), *loop.start("waits", 3)]
    for task in asyncio.all_tasks() - {here()}:
        task.cancel()
    await loop.outcomes(runs)
    assert sorted(ended) == [0, 0, 0, 1, 1, 2, 2]


async def test_an_error_of_ours_at_the_end_of_a_handler_ends_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @activity
    async def quick(n: int) -> None:
        return

    loop = Loop(quick)
    runs = loop.start("quick", 3)
    worker, broken = loop.runner.worker, runs[0].attempt
    deliver = worker.deliver
    worker.deliver = lambda one: 1 / 0 if one is broken else deliver(one)  # type: ignore[assignment, return-value]
    await loop.outcomes(runs)
    await asyncio.sleep(0)
    assert "internal_error" in caplog.text


async def test_a_task_is_named_for_the_activity_it_runs() -> None:
    """It helps when the tasks of a hung process are listed."""
    stop = asyncio.Event()

    @activity
    async def resize(n: int) -> None:
        await stop.wait()

    loop = Loop(resize)
    runs = loop.start("resize", 1)
    await asyncio.sleep(0)
    (task,) = (task for task in asyncio.all_tasks() if "resize" in repr(task))
    (frame,) = task.get_stack()
    assert frame.f_code.co_name == "_life"
    stop.set()
    await loop.outcomes(runs)
    await asyncio.sleep(0)
    assert repr(loop.runner.worker.executors._on_loop) == "<OnLoop [0 tasks]>"


async def test_a_handler_that_is_not_known_to_be_light_begins_a_turn_of_its_own() -> None:
    """What those before it have brought about is sent at the end of theirs: it may keep the loop for minutes."""
    seen: list[str] = []

    @activity
    async def quick() -> None:
        seen.append("quick")

    @activity
    async def unknown() -> None:
        seen.append("unknown")

    loop = Loop(quick, unknown)
    await loop.outcomes(loop.start("quick"))
    loop.meter.on_turn_end = lambda: seen.append("turn ends")
    seen.clear()
    runs = [run for name in ("quick", "quick", "unknown", "quick") for run in loop.start(name)]
    await loop.outcomes(runs)
    assert seen[:5] == ["quick", "quick", "quick", "turn ends", "unknown"]
    assert seen[-1] == "turn ends"


async def test_nor_is_one_that_has_lately_kept_the_loop_behind_others_of_its_name() -> None:
    """Its last attempt says nothing about the next."""
    seen: list[str] = []

    @activity
    async def moody() -> None:
        seen.append("moody")

    loop = Loop(moody)
    await loop.outcomes(loop.start("moody"))
    loop.meter.enter_isolate()  # one begins …
    loop.meter.ended("moody", 2 * LIGHT_S, 2 * LIGHT_S)  # … and has ended
    loop.meter.on_turn_end = lambda: seen.append("turn ends")
    seen.clear()
    await loop.outcomes(loop.start("moody", 2))
    assert seen == ["moody", "turn ends", "moody", "turn ends"]


def wrapping(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """As instrumentation does it: the coroutine runs inside one of the factory's own."""

    async def around() -> Any:
        return await work

    return asyncio.Task(around(), loop=loop, **options)


def of_two_arguments(loop: asyncio.AbstractEventLoop, work: Any) -> asyncio.Task[Any]:
    """As factories were written before Python 3.11 knew `context`."""
    return asyncio.Task(work, loop=loop)


FACTORIES = [None, wrapping, of_two_arguments]
if hasattr(asyncio, "eager_task_factory"):  # Python 3.12
    FACTORIES.append(asyncio.eager_task_factory)


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: getattr(factory, "__name__", "default"))
async def test_every_handler_completes_and_keeps_its_limit_whatever_makes_its_task(factory: Any) -> None:
    """N9: a task factory that wraps coroutines stopped every async handler, silently and permanently."""
    asyncio.get_running_loop().set_task_factory(factory)

    @activity
    async def quick(n: int) -> int:
        return n

    @activity
    async def waits(n: int) -> int:
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)
        return n

    @activity(timeout_s=0.05)
    async def hangs(n: int) -> None:
        await asyncio.Event().wait()

    loop = Loop(quick, waits, hangs, cancel_grace_s=1.0)
    runs = [*loop.start("quick", 5), *loop.start("waits", 5), *loop.start("hangs", 2)]
    outcomes = await loop.outcomes(runs)
    assert outcomes[:10] == [Completed(b'{"result":%d}' % n) for n in (*range(5), *range(5))]
    assert [outcome.code for outcome in outcomes[10:]] == ["TIMEOUT", "TIMEOUT"]


async def test_sentrys_asyncio_integration_sees_every_handler_complete() -> None:
    """N9, with the real library: it wraps each coroutine that becomes a task."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    from sentry_sdk.integrations.asyncio import AsyncioIntegration

    class Nowhere(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            """What is sent is not what this is about."""

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Nowhere,
        integrations=[AsyncioIntegration()],
        default_integrations=False,
        traces_sample_rate=1.0,
    )
    try:

        @activity
        async def quick(n: int) -> int:
            await asyncio.sleep(0)
            return n

        loop = Loop(quick)
        outcomes = await loop.outcomes(loop.start("quick", 8))
        assert outcomes == [Completed(b'{"result":%d}' % n) for n in range(8)]
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)


async def test_a_session_scoped_by_task_never_meets_another_activity() -> None:
    """N10, with SQLAlchemy: rows of a refused activity were committed by its neighbour."""
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
    pytest.importorskip("aiosqlite")
    engine = sqlalchemy.create_async_engine("sqlite+aiosqlite:///:memory:")
    factory = sqlalchemy.async_sessionmaker(engine)
    scoped = sqlalchemy.async_scoped_session(factory, scopefunc=asyncio.current_task)
    sessions: list[Any] = []

    @activity
    async def uses(n: int) -> None:
        sessions.append(scoped())  # and does not remove it, as a handler that was refused half-way

    loop = Loop(uses)
    await loop.outcomes(loop.start("uses", 6))
    assert len({id(session) for session in sessions}) == 6
    for session in sessions:
        await session.close()
    await engine.dispose()


async def test_a_done_callback_and_a_name_on_a_handlers_task_affect_no_other_handler() -> None:
    """N10: they are its own task's."""
    done: list[int] = []
    names: list[str] = []

    @activity
    async def leaves(n: int) -> None:
        names.append(here().get_name())
        here().set_name(f"mine {n}")
        here().add_done_callback(lambda _: done.append(n))

    loop = Loop(leaves)
    for n in range(3):
        await loop.outcomes(loop.start("leaves"))
        await asyncio.sleep(0)
        assert done == [0] * (n + 1)
    assert names == ["leaves"] * 3
