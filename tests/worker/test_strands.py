"""The tasks that handlers run in: shared by those that never wait, and without a trace of one in the next."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest

from flowherd import CancelReason, Registry, activity
from flowherd.activity import Completed, Failed
from flowherd.config import WorkerConfig
from flowherd.running.environment import RunEnvironment
from flowherd.running.offload import ThreadPool
from flowherd.running.runner import Phase, Runner
from flowherd.running.stepping import LIGHT_S
from flowherd.running.strands import Strands
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from flowherd.running.run import Run

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


async def test_handlers_that_do_not_wait_share_a_task_in_their_order() -> None:
    """A task for each costs as much as all else that is done for them."""
    seen: list[tuple[int, asyncio.Task[Any]]] = []

    @activity
    async def quick(n: int) -> None:
        seen.append((n, here()))

    loop = Loop(quick)
    runs = loop.start("quick", 20)
    assert await loop.outcomes(runs) == [Completed(b"{}")] * 20
    assert [n for n, _ in seen] == list(range(20))
    assert len({id(task) for _, task in seen}) == 1


async def test_a_handler_that_waits_has_its_task_to_itself_and_its_task_ends_with_it() -> None:
    """What keeps a book about tasks, such as a session for each, must not see two handlers as one."""
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
    await loop.outcomes(loop.start("quick", 10))  # nobody waits for those that wait
    assert len(set(tasks)) == 10
    go_on.set()
    assert await loop.outcomes(runs) == [Completed(b'{"result":%d}' % n) for n in range(10)]
    await asyncio.sleep(0)
    assert all(task.done() and not task.cancelled() for task in tasks)


async def test_handlers_that_wait_no_more_share_a_task_again() -> None:
    tasks: list[asyncio.Task[Any]] = []

    @activity
    async def moody(*, n: int, waits: bool) -> None:
        tasks.append(here())
        if waits:
            await asyncio.sleep(0)

    loop = Loop(moody)
    for waits, expected in ((True, 6), (False, 6), (False, 1), (True, 6)):
        tasks.clear()
        await loop.outcomes(loop.start("moody", 6, waits=waits))
        assert len(set(tasks)) == expected


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


async def test_who_keeps_a_book_about_tasks_sees_another_one_for_the_next_handler() -> None:
    """Such as a library with one session for each task."""
    book: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    @activity
    async def keeps(n: int) -> int:
        return book.setdefault(here(), n)

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


async def test_a_stranger_that_cancels_every_task_ends_no_handler_that_has_not_begun() -> None:
    """Such as an app's own clean-up: whoever had no turn yet gets it in another task."""
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
    runs[0].when_decided(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    await loop.outcomes(runs)
    assert "internal_error" in caplog.text


async def test_a_strand_names_what_it_runs() -> None:
    """For whoever looks at the tasks of a process that hangs."""
    stop = asyncio.Event()

    @activity
    async def resize(n: int) -> None:
        await stop.wait()

    loop = Loop(resize)
    runs = loop.start("resize", 1)
    await asyncio.sleep(0)
    (task,) = (task for task in asyncio.all_tasks() if "resize" in repr(task))
    (frame,) = task.get_stack()
    assert frame.f_code.co_name == "invoke_async"
    stop.set()
    await loop.outcomes(runs)
    assert repr(Strands(loop.runner._environment.meter)) == "<Strands [0 tasks, 0 handlers wait for theirs]>"


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
    assert seen[:5] == ["quick", "quick", "turn ends", "unknown", "quick"]
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
