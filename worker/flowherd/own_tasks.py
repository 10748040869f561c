"""Tasks of flowherd's own, which only flowherd's own code cancels (faults.md A22).

An app or a library that cleans up may cancel every task of the loop. A poll, a report or the worker that ended so would
leave claims and outcomes in doubt. So a cancel counts only when it comes from code that belongs to the task, such as
its time limits, or by `end` from its owner; any other is ignored, and the code that asked for it is named.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from flowherd.attempt_ids import working_for
from flowherd.user_code import where_stands

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowherd.attempt_ids import AttemptIds

T = TypeVar("T")
BURST_S = 0.1  # cancels that follow each other so soon are one: of all tasks of a loop
MOST_BURSTS, WITHIN_S = 5, 60.0  # more do not stop by themselves
_NEWS_S = 1.0  # a handler's CancelledError belongs to a burst that is at most so old

log = structlog.stdlib.get_logger(__name__)

_watch: ContextVar[CancelWatch | None] = ContextVar("flowherd_cancel_watch", default=None)
_part: ContextVar[str] = ContextVar("flowherd_part", default="")


class CancelWatch:
    """Names the code that cancels the own tasks of one loop, once for each burst of cancels.

    Args:
        give_up: called in the midst of the cancel when bursts do not stop; the process cannot protect its handlers.
        clock: monotonic seconds.

    """

    def __init__(self, give_up: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._give_up = give_up
        self._clock = clock
        self._bursts: deque[float] = deque(maxlen=MOST_BURSTS)
        self._culprit: AttemptIds | None = None

    def ignored(self) -> None:
        """A cancel was ignored; called by the code that asked for it, in its thread."""
        now = self._clock()
        if now - self._last_at < BURST_S:
            return
        self._bursts.append(now)
        self._culprit = working_for.get()
        log.warning("cancel_ignored", note="flowherd's own tasks go on", **by_whom())
        if len(self._bursts) == MOST_BURSTS and now - self._bursts[0] < WITHIN_S:
            log.error("cancels_do_not_stop", count=MOST_BURSTS, within_s=WITHIN_S, **by_whom())
            self._give_up()

    @property
    def _last_at(self) -> float:
        return self._bursts[-1] if self._bursts else -math.inf

    def culprit(self) -> AttemptIds | None:
        """Returns the attempt whose code has just cancelled all tasks; None when it is not known."""
        return self._culprit if self._clock() - self._last_at < _NEWS_S else None


def by_whom() -> dict[str, Any]:
    """Returns the ids of the attempt whose code calls this, as far as they are known, and its line."""
    who = working_for.get()
    found = {} if who is None else who.fields()
    at = where_stands(threading.get_ident(), only_users=True)
    return {**found, "at": at} if at else found


def cause_of_cancel(own: AttemptIds) -> str:
    """Returns why the running handler was cancelled by code other than flowherd; "" when its task was not cancelled.

    Args:
        own: the ids of the running handler.

    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a plain function in a thread has no loop
        return ""
    if task is None or not task.cancelling():
        return ""
    watch = _watch.get()
    culprit = None if watch is None else watch.culprit()
    if culprit is None:
        return "code of the app or of a library cancelled its task"
    if culprit.activity_id == own.activity_id:
        return "its own code cancelled its task"
    name, activity_id = culprit.activity_name, culprit.activity_id
    return f"all tasks of its process were cancelled by code of {name} ({activity_id})"


class OwnTask(asyncio.Task[T]):
    """A task that belongs to the code in whose context it is made; other code cannot cancel it while its loop runs.

    Args:
        work: the coroutine to run.
        loop: the loop that runs it, None for the running one.
        name: for the stacks of tasks.

    """

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: str | None = None,
    ) -> None:
        self._home = copy_context()
        self._belongs_to = _here()
        super().__init__(work, loop=loop or asyncio.get_running_loop(), name=name)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancels the task if the caller belongs to it, or its loop does not run any more; else returns False."""
        if _here() == self._belongs_to or not self.get_loop().is_running():
            return super().cancel(msg)
        if (watch := self._belongs_to[0]) is not None:
            watch.ignored()
        return False

    def end(self) -> bool:
        """Cancels the task, by order of its owner; see `asyncio.Task.cancel`."""
        return self._home.copy().run(super().cancel)


def _here() -> tuple[CancelWatch | None, str, AttemptIds | None]:
    """Returns the part of the process to which the calling code belongs: loop, lifespan and attempt."""
    return _watch.get(), _part.get(), working_for.get()


def watched_task(
    work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, give_up: Callable[[], None]
) -> OwnTask[T]:
    """Returns the main task of a loop; the code that it runs, but no handler, belongs to all own tasks of the loop.

    Args:
        work: the coroutine to run.
        loop: the loop, which does not run yet.
        give_up: see `CancelWatch`.

    """
    context = copy_context()
    context.run(_watch.set, CancelWatch(give_up))
    return context.run(lambda: OwnTask(work, loop=loop))


def separate_task(work: Coroutine[Any, Any, T], name: str) -> OwnTask[T]:
    """Starts a task of user code, whose code belongs to it, but to no other own task.

    Args:
        work: the coroutine to run.
        name: of this part of the process.

    """
    context = copy_context()
    context.run(_part.set, name)
    return context.run(lambda: OwnTask(work, name=name))
