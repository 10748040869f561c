"""The executor of handlers on the event loop; each has a task of its own, made by the loop's task factory.

A task factory may wrap the coroutine (instrumentation) or run its first step at once (eager); the handler's coroutine
is awaited inside it, in a context that no other handler shares. Each step is timed, and marked in the ledger while it
lasts, so that the supervisor knows the culprit when the loop hangs.

Handlers begin in turns, one turn per iteration of the loop, in the order in which they were started. After TURN_S the
others wait for the next turn, so that replies are read in between. A handler that is not known to be light begins a
turn of its own, so that the outcomes before it need not wait for its end. A turn wakes as many waiting handlers as it
has time for, estimated from the previous turn.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.activities_and_outcomes import Failed
from flowherd.execution.invoke import invoke_async

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine, Generator
    from types import FrameType

    from flowherd.activities_and_outcomes import Result
    from flowherd.execution.activity_costs import LoopSample
    from flowherd.execution.executor import Outlet
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt

TURN_S = 0.002
_NO_TURN, _PROMISED = (
    0.0,
    -1.0,
)  # in place of a turn's end: there is no turn, or a woken handler is about to begin one

log = structlog.stdlib.get_logger(__name__)


class Steps:
    """Awaits a handler's coroutine and measures each of its steps.

    Args:
        work: the coroutine; awaiting this returns what it returns.
        meter: measures each step.
        attempt: the attempt, whose record is marked in the ledger during each step.
        sample: measures CPU and waits, None for most attempts.

    """

    __slots__ = ("_attempt", "_longest_s", "_meter", "_sample", "_took_s", "_work")

    def __init__(
        self,
        work: Coroutine[Any, Any, Result],
        meter: LoopMeter,
        attempt: Attempt,
        sample: LoopSample | None,
    ) -> None:
        self._work = work
        self._meter = meter
        self._attempt = attempt
        self._sample = sample
        self._took_s = self._longest_s = 0.0

    def __await__(self) -> Generator[Any, Any, Result]:
        """Returns self, which has all methods of a generator that `await` needs."""
        return self  # type: ignore[return-value]

    def __next__(self) -> Any:
        """Runs one step."""
        return self._step(self._work.send, None)

    send = __next__

    def throw(self, *error: Any) -> Any:
        """Runs one step that begins with an exception, such as a cancellation."""
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        """Closes the handler's coroutine."""
        self._work.close()

    @property
    def cr_frame(self) -> FrameType | None:
        """The handler's frame, for the stacks of tasks."""
        return getattr(self._work, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        """The awaitable that the handler waits for, for the stacks of tasks."""
        return getattr(self._work, "cr_await", None)

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        meter, attempt, sample = self._meter, self._attempt, self._sample
        alone = meter.has_one
        began = meter.enter(attempt)
        if sample is not None:
            sample.resume(meter.busy_s)
        try:
            waits_for = step(*value)
        except BaseException:  # StopIteration is how a coroutine ends
            self._took(meter.leave(began))
            meter.ended(attempt.activity.name, self._took_s, self._longest_s)
            if sample is not None:
                sample.pause(meter.busy_s)
                sample.end(alone=alone)
            raise
        self._took(meter.leave(began))
        if sample is not None:
            sample.pause(meter.busy_s)
        return waits_for

    def _took(self, step_s: float) -> None:
        self._took_s += step_s
        self._longest_s = max(self._longest_s, step_s)


class OnLoop:
    """Runs handlers on the running loop.

    Args:
        meter: measures their steps.
        outlet: receives the events of handlers.
        moved: names of activities that do not run here any more.
        elsewhere: starts an attempt of one of these that has not begun here.

    """

    def __init__(
        self,
        meter: LoopMeter,
        outlet: Outlet,
        moved: Container[str] = (),
        elsewhere: Callable[[Attempt], None] | None = None,
    ) -> None:
        self._meter = meter
        self._outlet = outlet
        self._moved = moved
        self._elsewhere = elsewhere
        self._tasks: dict[asyncio.Task[None], tuple[Attempt, ActivityDefinition]] = {}
        self._turn_until = _NO_TURN
        self._begun = 0  # handlers, in this turn
        self._numbers = count()
        self._waiting: list[
            tuple[int, str, asyncio.Future[bool]]
        ] = []  # a heap, in the order of their starts

    def __repr__(self) -> str:
        return f"<OnLoop [{len(self._tasks)} tasks]>"

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Starts a task for the handler, in a copy of the current context."""
        task = attempt.handle = asyncio.get_running_loop().create_task(self._life(attempt, definition))
        task.set_name(attempt.activity.name or "activity")
        self._tasks[task] = attempt, definition  # the loop itself keeps only weak references
        task.add_done_callback(self._ended)

    def stop(self, attempt: Attempt) -> None:
        """Cancels the handler's task."""
        attempt.handle.cancel()

    async def _life(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        name = attempt.activity.name
        if not self._may_begin(name):
            await self._turn_of(name)
        if self._moved and name in self._moved and attempt.may_begin:
            self._hand_over(attempt)
            return
        if not self._outlet.begin(attempt):
            return
        self._begun += 1
        sample = self._meter.sample_of(name)
        outcome = await Steps(invoke_async(definition, attempt), self._meter, attempt, sample)
        self._outlet.finished(attempt, outcome)

    def _hand_over(self, attempt: Attempt) -> None:
        """Starts an attempt elsewhere; the task that was to run it ends without an outcome."""
        assert self._elsewhere is not None
        del self._tasks[attempt.handle]
        self._elsewhere(attempt)

    def _may_begin(self, name: str) -> bool:
        """True when the handler may begin in the current turn; begins a turn when there is none."""
        if self._turn_until == _NO_TURN:
            self._begin_turn()
            asyncio.get_running_loop().call_soon(self._end_turn)
            return True
        return perf_counter() < self._turn_until and self._meter.is_light(name)

    async def _turn_of(self, name: str) -> None:
        """Waits until the handler may begin; it keeps its position in the queue."""
        number, loop = next(self._numbers), asyncio.get_running_loop()
        while True:
            waiter = loop.create_future()
            heappush(self._waiting, (number, name, waiter))
            if await waiter:
                self._begin_turn()
                return
            if self._may_begin(name):
                return

    def _begin_turn(self) -> None:
        self._turn_until = perf_counter() + TURN_S
        self._begun = 0
        self._meter.begin_turn()

    def _end_turn(self) -> None:
        took_s = perf_counter() - self._turn_until + TURN_S
        self._turn_until = _NO_TURN
        self._meter.end_turn()
        if self._waiting:
            more = 2.0 if took_s <= TURN_S / 2 else TURN_S / took_s
            self._wake(max(1, int(self._begun * more)))

    def _wake(self, most: int) -> None:
        """Wakes the first waiting handler to begin a turn, and the light ones behind it to begin in that turn."""
        self._turn_until, is_first = _PROMISED, True
        while self._waiting and most and (is_first or self._meter.is_light(self._waiting[0][1])):
            _, _, waiter = heappop(self._waiting)
            if not waiter.done():  # a cancelled waiter is done
                waiter.set_result(is_first)
                is_first, most = False, most - 1
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Handles a task that ended without an outcome: it was cancelled before its start, or broken by its factory."""
        attempt, definition = self._tasks.pop(task, (None, None))
        if attempt is None or definition is None:
            return  # it was started elsewhere
        if attempt.has_ended or not attempt.has_slot:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("internal_error", exc_info=error, **attempt.ids)
            return
        if task.cancelled() and attempt.may_begin:
            self.start(attempt, definition)  # cancelled by other code: start it again in another task
            return
        reason = "its task ended without it"
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", exc_info=error, **attempt.ids)
            reason = f"its task raised {type(error).__name__}"
        self._outlet.finished(attempt, Failed("EXECUTION_ERROR", reason, retryable=True))
