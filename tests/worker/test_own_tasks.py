"""A22, A23: flowherd's own tasks end when flowherd wants it, whatever handlers and libraries cancel."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
from attempts_kit import Rig, an_activity
from structlog.testing import capture_logs
from virtual_time import main_task

from flowherd import Registry
from flowherd.attempt_ids import AttemptIds, working_for
from flowherd.background import Tasks
from flowherd.client.engine_protocol import Answer, Batch, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.execution.lifespan import enter
from flowherd.own_tasks import BURST_S, MOST_BURSTS, WITHIN_S, CancelWatch, OwnTask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CEILING_S = 10.0
AWAY = EngineUnavailable("connection refused")
WHO = AttemptIds("a-1", "wf-1", "step", "meddle")


def cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


def as_a_handler(work: Callable[[], Any]) -> Any:
    """Calls `work` as code of a handler."""
    context = copy_context()
    context.run(working_for.set, WHO)
    return context.run(work)


class MeddlingRig(Rig):
    """A worker with an activity that cancels all tasks, its own included where `everyone`, and waits for its `end`."""

    def __init__(self, *, times: int = 1, everyone: bool = False) -> None:
        super().__init__(slots=16)

        async def meddle(ctx: Any, params: dict[str, Any]) -> str:
            del params
            own = None if everyone else asyncio.current_task()
            for _ in range(times):
                for task in asyncio.all_tasks() - {own}:
                    task.cancel()
            await self.handlers.ends.setdefault(ctx.activity_id, asyncio.Event()).wait()
            return "done"

        self.handlers.registry.register(meddle)

    async def meddle(self) -> None:
        """Runs that activity, which ends by itself only when it is cancelled."""
        self.engine.offer(an_activity("culprit", "meddle"))
        await asyncio.sleep(0.5)

    def messages(self) -> dict[str, str]:
        return {call.activity_id: call.body["error"]["message"] for call in self.engine.of("fail")}


@pytest.mark.parametrize("times", [1, 2])
@main_task
async def test_a22_a_worker_whose_tasks_are_all_cancelled_goes_on(times: int) -> None:
    """Neighbours are given back at once with the cause, and new work is polled for."""
    rig = MeddlingRig(times=times)
    await rig.begin("n-1", "n-2")
    with capture_logs() as lines:
        await rig.meddle()
    assert rig.codes() == {"n-1": "TASK_CANCELLED", "n-2": "TASK_CANCELLED"}
    assert all(call.body["error"]["retryable"] for call in rig.engine.of("fail"))
    assert set(rig.messages().values()) == {
        "all tasks of its process were cancelled by code of meddle (culprit)"
    }
    [line] = [line for line in lines if line["event"] == "cancel_ignored"]
    assert line["activity_name"] == "meddle"
    assert line["at"].startswith(__file__)
    rig.handlers.end("culprit", "later")
    rig.engine.offer(an_activity("later"))
    await asyncio.wait_for(rig.engine.settled("culprit", "later"), CEILING_S)
    rig.worker.drain(5.0)
    assert not (await rig.stopped())[0].undelivered


@main_task
async def test_a22_one_that_cancels_its_own_task_too_is_told_so() -> None:
    """`for task in asyncio.all_tasks(): task.cancel()`."""
    rig = MeddlingRig(everyone=True)
    await rig.begin("n-1")
    await rig.meddle()
    assert rig.codes() == {"n-1": "TASK_CANCELLED", "culprit": "TASK_CANCELLED"}
    assert rig.messages()["culprit"] == "its own code cancelled its task"
    rig.worker.drain(1.0)
    await rig.stopped()


@pytest.mark.parametrize(("verb", "before"), [("poll", []), ("poll", [AWAY]), ("complete", [AWAY])])
@main_task
async def test_a22_no_call_under_way_is_cut_off(verb: str, before: list[Exception]) -> None:
    """Its claims or its outcome would be in doubt; nor is one that probes an engine after an outage."""
    rig = MeddlingRig()
    answered, ends = asyncio.Event(), list[str]()

    async def slowly() -> Any:
        ends.append("begun")
        try:
            await answered.wait()
        except asyncio.CancelledError:
            ends.append("cut off")
            raise
        ends.append("answered")
        return Batch() if verb == "poll" else Answer(Verdict.ACCEPTED)

    rig.handlers.end("n-1")
    rig.engine.script(verb, *before, slowly)
    rig.engine.offer(an_activity("n-1"))
    await asyncio.sleep(5.0)
    assert ends == ["begun"]
    as_a_handler(cancel_all)
    await asyncio.sleep(0.5)
    assert ends == ["begun"]
    answered.set()
    await asyncio.wait_for(rig.engine.settled("n-1"), CEILING_S)
    assert ends == ["begun", "answered"]
    rig.worker.drain(1.0)
    await rig.stopped()


@main_task
async def test_a22_a_drain_ends_as_ordered_although_all_tasks_are_cancelled() -> None:
    """It waits for what runs, and for its report."""
    rig = MeddlingRig()
    await rig.begin("n-1", name="stubborn")
    rig.worker.drain(60.0)
    await asyncio.sleep(1.0)
    as_a_handler(cancel_all)
    await asyncio.sleep(1.0)
    assert not rig.task.done()
    rig.handlers.end("n-1")
    stopped, took_s = await rig.stopped()
    assert (stopped.released, stopped.undelivered) == (0, ())
    assert took_s < 1.0


async def _hang() -> None:
    await asyncio.Event().wait()


@main_task
async def test_a22_only_its_own_code_and_its_owner_cancel_a_task() -> None:
    """Neither handlers, nor threads that they have made, nor callbacks of such threads."""
    loop, tasks = asyncio.get_running_loop(), Tasks()
    task = tasks.spawn(_hang())
    await asyncio.sleep(0)
    assert not as_a_handler(task.cancel)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(task.cancel()))
    thread.start()
    thread.join(CEILING_S)
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(lambda: found.append(task.cancel())))
    thread.start()
    thread.join(CEILING_S)
    await asyncio.sleep(0.1)
    assert (found, task.done()) == ([False, False], False)
    assert task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@main_task
async def test_a22_an_owners_order_reaches_what_its_task_waits_for_from_wherever_it_comes() -> None:
    """A timer that a handler's end has set, or a thread that reads orders, runs in another context."""
    inner: list[OwnTask[None]] = []

    async def outer() -> None:
        inner.append(OwnTask(_hang()))
        await inner[0]

    task = Tasks().spawn(outer())
    await asyncio.sleep(0)
    as_a_handler(task.end)
    await asyncio.wait({task, *inner}, timeout=CEILING_S)
    assert task.cancelled()
    assert inner[0].cancelled()


@main_task
async def test_a22_a_task_keeps_its_own_time_limits_also_when_a_handlers_end_has_made_it() -> None:
    """`asyncio.timeout` cancels the task it is in."""
    tasks, ends = Tasks(), list[str]()

    async def limited() -> None:
        try:
            async with asyncio.timeout(1.0):
                await _hang()
        except TimeoutError:
            ends.append("timeout")

    await asyncio.wait({as_a_handler(lambda: tasks.spawn(limited()))}, timeout=CEILING_S)
    assert ends == ["timeout"]


@main_task
async def test_a22_the_apps_lifespan_is_left_when_the_worker_ends_and_has_time_limits_of_its_own() -> None:
    """Its pools would be gone, and all handlers fail."""
    words: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(1.0):
                await _hang()
        except TimeoutError:
            words.append("timeout")
        yield
        words.append("left")

    entered = await enter(Registry(lifespan=lifespan))
    with capture_logs() as lines:
        as_a_handler(cancel_all)
    assert [line["event"] for line in lines] == ["cancel_ignored"]
    await asyncio.sleep(1.0)
    assert words == ["timeout"]
    await entered.leave(1.0)
    assert words == ["timeout", "left"]


@main_task
async def test_a22_nor_does_a_task_of_the_apps_lifespan_cancel_any_but_its_own() -> None:
    """It is user code too, and ends its own tasks when it is left."""
    tasks = Tasks()
    ours = tasks.spawn(_hang())

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        theirs = asyncio.create_task(_hang())
        ours.cancel()
        yield
        theirs.cancel()

    entered = await enter(Registry(lifespan=lifespan))
    await asyncio.sleep(0)
    assert not ours.cancelling()
    await entered.leave(1.0)
    await tasks.end()
    assert ours.cancelled()


@main_task
async def test_what_is_spawned_by_a_handlers_end_holds_nothing_of_the_handlers_context() -> None:
    """A sender lives as long as its worker."""
    found: list[Any] = []

    async def look() -> None:
        found.append(working_for.get())

    tasks = Tasks()
    await as_a_handler(lambda: tasks.spawn(look()))
    assert found == [None]


@pytest.mark.parametrize(("pause_s", "gives_up"), [(1.0, True), (WITHIN_S / 2, False)])
def test_a23_cancels_that_do_not_stop_end_the_process(pause_s: float, *, gives_up: bool) -> None:
    """Each costs the neighbours an attempt; a library that cleans up now and then ends nothing."""
    now, given_up = [100.0], list[float]()
    watch = CancelWatch(lambda: given_up.append(now[0]), clock=lambda: now[0])
    with capture_logs() as lines:
        for _ in range(MOST_BURSTS):
            for _ in range(10):  # the tasks of one loop
                as_a_handler(watch.ignored)
                now[0] += BURST_S / 100
            now[0] += pause_s
    assert [line["event"] for line in lines].count("cancel_ignored") == MOST_BURSTS
    assert len(given_up) == gives_up
    assert [line["event"] for line in lines].count("cancels_do_not_stop") == gives_up
