"""The executor of handlers on the event loop: a task of its own for each, made by the loop's task factory.

Whatever the factory makes of the coroutine it is given (instrumentation wraps it, an eager one runs its first step at
once), the handler's own coroutine is awaited inside it, in a context that no other handler has seen. Each of its steps
is timed, and marked in the ledger while it lasts, so that the supervisor knows whom to blame when the loop never comes
back.

Handlers begin in the order in which they were started. After TURN_S of handlers that have begun in one round of the
loop the others wait for the next one, so that replies are read in between. What is not known to be light begins a round
of its own, so that no outcome of those before it waits for its end.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.model import Failed
from flowherd.running.run import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import FrameType
    from typing import TypeAlias

    from flowherd.execution.profiles import LoopSample
    from flowherd.model import Result
    from flowherd.running.run import Run
    from flowherd.running.stepping import LoopMeter

    Work: TypeAlias = Callable[[], Coroutine[Any, Any, Result]]

TURN_S = 0.002

log = structlog.stdlib.get_logger(__name__)


class Steps:
    """Awaits a handler's coroutine and measures each of its steps.

    Args:
        work: the coroutine; awaiting this returns what it returns.
        meter: is told of each step.
        run: its `tag` is what the ledger holds while a step lasts.
        sample: measures CPU and waits too, for some of the attempts.

    """

    __slots__ = ("_longest_s", "_meter", "_run", "_sample", "_took_s", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Result], meter: LoopMeter, run: Run, sample: LoopSample | None
    ) -> None:
        self._work = work
        self._meter = meter
        self._run = run
        self._sample = sample
        self._took_s = self._longest_s = 0.0

    def __await__(self) -> Generator[Any, Any, Result]:
        """Itself: it has all that `await` asks of a generator."""
        return self  # type: ignore[return-value]

    def __next__(self) -> Any:
        """One step."""
        return self._step(self._work.send, None)

    send = __next__

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception, such as a cancellation."""
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
        """What the handler waits in, for stacks of tasks."""
        return getattr(self._work, "cr_await", None)

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        meter, name, sample = self._meter, self._run.activity.name, self._sample
        alone = meter.has_one
        began = meter.enter(name, self._run.tag)
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
    """Runs handlers on the running loop; `start` and `stop` are called on it.

    Args:
        meter: measures their steps.

    """

    def __init__(self, meter: LoopMeter) -> None:
        self._meter = meter
        self._tasks: dict[asyncio.Task[None], tuple[Run, Work]] = {}
        self._turn_until = 0.0

    def __repr__(self) -> str:
        return f"<OnLoop [{len(self._tasks)} tasks]>"

    def start(self, run: Run, work: Work) -> None:
        """Runs it soon, in a copy of the present context.

        Args:
            run: is told when the handler begins, by `begin`, and that it has ended, by `finish`.
            work: makes the coroutine that calls the handler and never raises; what it returns is the outcome.

        """
        task = asyncio.get_running_loop().create_task(self._life(run, work))
        self._tasks[task] = run, work  # the loop itself keeps only weak references
        task.add_done_callback(self._ended)

    async def _life(self, run: Run, work: Work) -> None:
        while self._must_wait(run.activity.name):  # noqa: ASYNC110 - no event says that a round is over
            await asyncio.sleep(0)
        if run.has_ended:
            return  # told to stop before it has begun
        task = asyncio.current_task()
        assert task is not None
        task.set_name(run.activity.name or "activity")  # for whoever looks at tasks
        run.begin(task.cancel)
        run.limit()
        run.finish(await Steps(work(), self._meter, run, self._meter.sample_of(run.activity.name)))

    def _must_wait(self, name: str) -> bool:
        """Another handler has its turn in this round of the loop, and this one has to wait for the next."""
        now = perf_counter()
        if self._turn_until:
            return now >= self._turn_until or not self._meter.is_light(name)
        self._turn_until = now + TURN_S
        self._meter.begin_turn()
        asyncio.get_running_loop().call_soon(self._end_turn)
        return False

    def _end_turn(self) -> None:
        self._turn_until = 0.0
        self._meter.end_turn()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The only word of a task that somebody has cancelled before it began, or that its factory has broken."""
        run, work = self._tasks.pop(task)
        if task.cancelled() and run.phase is Phase.WAITING:
            self.start(run, work)  # not by us: its turn comes in another task
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("internal_error", exc_info=error)
        if not run.has_ended:
            reason = (
                "its task ended without it" if error is None else f"its task raised {type(error).__name__}"
            )
            run.finish(Failed("EXECUTION_ERROR", reason, retryable=True))
