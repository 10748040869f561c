"""The executor of handlers on the event loop: a task of its own for each, made by the loop's task factory.

Whatever the factory makes of the coroutine it is given (instrumentation wraps it, an eager one runs its first step at
once), the handler's own coroutine is awaited inside it, in a context that no other handler has seen. Each of its steps
is timed, and marked in the ledger while it lasts, so that the supervisor knows whom to blame when the loop never comes
back.

Handlers begin in turns, a round of the loop each, in the order in which they were started. After TURN_S the others wait
for the next turn, so that replies are read in between. What is not known to be light begins a turn of its own, so that
no outcome of those before it waits for its end. A turn wakes as many of those that wait as it has time for, as far as
the turn before can tell.
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
    from collections.abc import Callable, Coroutine, Generator
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
)  # instead of the end of a turn: there is none, or somebody is about to begin one

log = structlog.stdlib.get_logger(__name__)


class Steps:
    """Awaits a handler's coroutine and measures each of its steps.

    Args:
        work: the coroutine; awaiting this returns what it returns.
        meter: receives each step.
        attempt: the place of its record is what the ledger holds while a step lasts.
        sample: measures CPU and waits too, for some of the attempts.

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
        """Itself: it has all that `await` asks of a generator."""
        return self  # type: ignore[return-value]

    def __next__(self) -> Any:
        """Takes a step."""
        return self._step(self._work.send, None)

    send = __next__

    def throw(self, *error: Any) -> Any:
        """Takes a step that begins with an exception, such as a cancellation."""
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        """Ends the handler where it stands."""
        self._work.close()

    @property
    def cr_frame(self) -> FrameType | None:
        """The handler's frame, for stacks of tasks."""
        return getattr(self._work, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        """The awaitable that the handler waits in, for stacks of tasks."""
        return getattr(self._work, "cr_await", None)

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        meter, attempt, sample = self._meter, self._attempt, self._sample
        name = attempt.activity.name
        alone = meter.has_one
        began = meter.enter(name, attempt.index + 1)
        if sample is not None:
            sample.resume(meter.busy_s)
        try:
            waits_for = step(*value)
        except BaseException:  # StopIteration is how a coroutine ends
            self._took(meter.leave(began))
            meter.ended(name, self._took_s, self._longest_s)
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
        outlet: receives their outcomes.

    """

    def __init__(self, meter: LoopMeter, outlet: Outlet) -> None:
        self._meter = meter
        self._outlet = outlet
        self._tasks: dict[asyncio.Task[None], tuple[Attempt, ActivityDefinition]] = {}
        self._turn_until = _NO_TURN
        self._begun = 0  # handlers, in this turn
        self._numbers = count()
        self._waiting: list[
            tuple[int, str, asyncio.Future[bool]]
        ] = []  # a heap, by the order of their coming

    def __repr__(self) -> str:
        return f"<OnLoop [{len(self._tasks)} tasks]>"

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Runs it soon, in a copy of the present context."""
        task = attempt.handle = asyncio.get_running_loop().create_task(self._life(attempt, definition))
        task.set_name(attempt.activity.name or "activity")  # for whoever looks at tasks
        self._tasks[task] = attempt, definition  # the loop itself keeps only weak references
        task.add_done_callback(self._ended)

    def stop(self, attempt: Attempt) -> None:
        """Cancels it."""
        attempt.handle.cancel()

    async def _life(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        name = attempt.activity.name
        if not self._may_begin(name):
            await self._turn_of(name)
        if not self._outlet.begin(attempt):
            return
        self._begun += 1
        sample = self._meter.sample_of(name)
        outcome = await Steps(invoke_async(definition, attempt), self._meter, attempt, sample)
        self._outlet.finished(attempt, outcome)

    def _may_begin(self, name: str) -> bool:
        """There is a turn that it may begin in; it begins one when there is none."""
        if self._turn_until == _NO_TURN:
            self._begin_turn()
            asyncio.get_running_loop().call_soon(self._end_turn)
            return True
        return perf_counter() < self._turn_until and self._meter.is_light(name)

    async def _turn_of(self, name: str) -> None:
        """Returns when a handler may begin that had to wait; it keeps its place among those that wait."""
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
        """Lets the first of those that wait begin a turn, and the light ones behind it begin in it."""
        self._turn_until, is_first = _PROMISED, True
        while self._waiting and most and (is_first or self._meter.is_light(self._waiting[0][1])):
            _, _, waiter = heappop(self._waiting)
            if not waiter.done():  # it was cancelled
                waiter.set_result(is_first)
                is_first, most = False, most - 1
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The only report of a task that was cancelled before it began, or broken by its factory."""
        attempt, definition = self._tasks.pop(task)
        if attempt.has_ended or not attempt.has_slot:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("internal_error", exc_info=error, **attempt.ids)
            return
        if task.cancelled() and attempt.may_begin:
            self.start(attempt, definition)  # not by us: its turn comes in another task
            return
        reason = "its task ended without it"
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal_error", exc_info=error, **attempt.ids)
            reason = f"its task raised {type(error).__name__}"
        self._outlet.finished(attempt, Failed("EXECUTION_ERROR", reason, retryable=True))
