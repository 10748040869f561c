"""The tasks that handlers run in, on the loop: one for each that waits, one for many that do not; it judges nothing.

A task costs as much as all else that is done for an activity that does next to nothing. So the handlers of activities
that lately ended without once giving up the loop run one after the other in one task, a strand, as long as they go on
to do so. As soon as one waits, the strand is its own, and the others get another one: from where it first waits until
its end a handler has `asyncio.current_task()` to itself, and nothing that it has hung on its task, such as a
cancellation, meets the next. Context variables are each handler's own in any case.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from flowherd.activity import Result
    from flowherd.running.run import Run
    from flowherd.running.stepping import LoopMeter
    from flowherd.running.steps import Stepped

_TURN_S = 0.002  # how long handlers that do not wait may follow each other before the loop has its turn

log = structlog.stdlib.get_logger(__name__)


class OnLoop:
    """One handler that is to run on the loop.

    Args:
        run: is told of its begin and end.
        make: makes the coroutine that calls it and never raises; what that returns is the outcome.

    Attributes:
        steps: that coroutine, measured, in a context of its own; once it has begun.

    """

    __slots__ = ("_context", "_make", "_run", "_task", "name", "steps")

    _task: asyncio.Task[None]
    steps: Stepped

    def __init__(self, run: Run, make: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        self.name = run.activity.name
        self._run = run
        self._make = make
        self._context = copy_context()

    def begin(self, task: asyncio.Task[None], meter: LoopMeter) -> bool:
        """Makes it ready for its first step; False when it was told to stop before."""
        if self._run.has_ended:
            return False
        self._task = task
        self.steps = meter.stepped(self._make(), self.name, self._run, self._context)
        self._run.begin(self._stop)
        return True

    def waits(self) -> None:
        """It has given up the loop for the first time."""
        self._run.limit()

    def end(self, outcome: Result) -> None:
        """It has ended; an error of ours must not end others."""
        try:
            self._run.finish(outcome)
        except Exception as error:
            log.error("internal_error", exc_info=error)

    def _stop(self) -> None:
        self._task.cancel()


class Strands:
    """All strands of one worker's loop.

    Args:
        meter: measures the steps.

    Attributes:
        given_up_loop: names of activities whose handlers lately had to wait.
        queue: handlers that the serving strand is to run.
        serving: the strand that handlers share, None while nobody needs one.

    """

    def __init__(self, meter: LoopMeter) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.given_up_loop: set[str] = set()
        self._context = copy_context()  # of no handler: what is done between two of them is nobody's
        self.meter = meter
        self.queue: deque[OnLoop] = deque()
        self.serving: Strand | None = None

    def __repr__(self) -> str:
        return f"<Strands [{len(self._tasks)} tasks, {len(self.queue)} handlers wait for theirs]>"

    def start(self, handler: OnLoop) -> None:
        """Runs it soon: in a strand of its own if its activity lately had to wait."""
        if handler.name in self.given_up_loop:
            self._spawn(deque((handler,)))
            return
        self.queue.append(handler)
        if self.serving is None:
            self.serve()

    def serve(self) -> None:
        """Sees to it that those in the queue have their turn."""
        if self.queue and self.serving is None:
            self.serving = self._spawn(self.queue)

    def has_waited(self, strand: Strand, name: str) -> None:
        """The strand belongs to one handler from now on, and so shall those of others like it."""
        self.given_up_loop.add(name)
        if strand is self.serving:
            self.serving = None
            others = list(self.queue)
            self.queue.clear()
            for handler in others:
                self.start(handler)

    def left(self, strand: Strand) -> None:
        """The strand runs no more handlers; whom it has not run gets another."""
        if strand is self.serving:
            self.serving = None
        elif strand.queue:
            self.queue.extend(strand.queue)
        strand.drop_task()
        self.serve()

    def _spawn(self, queue: deque[OnLoop]) -> Strand:
        strand = Strand(self, queue)
        task = strand.task = asyncio.get_running_loop().create_task(strand, context=self._context)
        strand.holds = getweakrefcount(task)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return strand


class Strand(Coroutine[Any, Any, None]):
    """The coroutine of one task.

    Args:
        strands: it belongs to.
        queue: those whose handlers it runs, until one waits.

    Attributes:
        task: its own.
        holds: how many weak references to its task there were at first.

    """

    __slots__ = ("__name__", "__qualname__", "_handler", "_strands", "holds", "queue", "task")

    task: asyncio.Task[None]
    holds: int

    def __init__(self, strands: Strands, queue: deque[OnLoop]) -> None:
        self._strands = strands
        self.queue = queue
        self._handler: OnLoop | None = None
        self.__name__ = self.__qualname__ = "strand"

    def send(self, value: None) -> Any:
        """One step of the handler that has waited, or as many handlers as do not."""
        del value  # nothing but None is ever sent
        if self._handler is None:
            return self._run_queue()
        try:
            return self._handler.steps.send(None)
        except StopIteration as end:
            outcome = end.value
        self._end(self._handler, outcome)
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        """The task was cancelled."""
        if self._handler is None:  # by nobody of ours, between two handlers
            self._strands.left(self)
            raise error[0]
        try:
            return self._handler.steps.throw(*error)
        except StopIteration as end:
            outcome = end.value
        self._end(self._handler, outcome)
        raise StopIteration

    def _run_queue(self) -> Any:
        meter = self._strands.meter
        meter.begin_turn()
        try:
            return self._run_until_one_waits(meter)
        except BaseException:  # StopIteration is how it ends
            self._strands.left(self)
            raise
        finally:
            meter.end_turn()

    def _run_until_one_waits(self, meter: LoopMeter) -> Any:
        queue, until = self.queue, perf_counter() + _TURN_S
        task, given_up_loop = self.task, self._strands.given_up_loop
        while queue:
            handler = queue.popleft()
            if not handler.begin(task, meter):
                continue
            try:
                waits_for = handler.steps.send(None)
            except StopIteration as end:
                outcome = end.value
            else:
                self._handler = handler
                self.__name__ = self.__qualname__ = handler.name or "activity"  # for whoever looks at tasks
                handler.waits()
                self._strands.has_waited(self, handler.name)
                return waits_for
            given_up_loop.discard(handler.name)  # others like it need no task of their own
            handler.end(outcome)
            if task.cancelling() or getweakrefcount(task) != self.holds:
                break  # it has left a cancellation on the task, or somebody who keeps a book about it
            if queue and (perf_counter() >= until or not meter.is_light(queue[0].name)):
                return (
                    None  # as a bare yield; what may keep the loop begins a turn: nothing waits for its end
                )
        raise StopIteration

    def drop_task(self) -> None:
        """Its task knows it and has ended: no circle of references shall wait for a collection of garbage."""
        del self.task

    def _end(self, handler: OnLoop, outcome: Result) -> None:
        self._handler = None
        self.drop_task()
        handler.end(outcome)

    def close(self) -> None:
        """Ends its handler where it stands."""
        if self._handler is not None:
            self._handler.steps.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Nobody awaits it: it is a task's."""
        raise TypeError("a strand is a task's own")

    @property
    def cr_frame(self) -> FrameType | None:
        """Where its handler stands, for stacks of tasks."""
        return None if self._handler is None else self._handler.steps.cr_frame
