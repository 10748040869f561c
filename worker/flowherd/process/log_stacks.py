"""Logs what this process is doing: its running activities, and the stack of every thread and task."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from flowherd.leases.record_ids import ids_of
from flowherd.user_code import innermost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from structlog.stdlib import BoundLogger

    from flowherd.ledger import Ledger, Segment
    from flowherd.user_code import Place

_FRAMES = 25


def dump_activities(log: BoundLogger, ledger: Ledger, segments: Iterable[Segment]) -> None:
    """Logs a line for each activity whose handler runs, oldest first."""
    now = time.monotonic()
    running = [(record, one) for one in segments for record in one.records() if record.is_at_work]
    for record, segment in sorted(running, key=lambda found: found[0].started_at):
        ids = ids_of(ledger, segment, record)
        log.info("activity_at_work", for_s=round(now - record.started_at, 1), **ids)


def dump_threads(log: BoundLogger) -> None:
    """Logs a line for each thread, also while another thread blocks the loop; threads in user code first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        (names.get(ident, str(ident)), _places(traceback.extract_stack(frame)))
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - documented
    ]
    _say(log, "stack_of_thread", "thread", found)


def dump_tasks(log: BoundLogger) -> None:
    """Logs a line for each task of the running loop, with the frames it waits in; tasks in user code first."""
    found = [(task.get_name(), _waiting_in(task.get_coro())) for task in asyncio.all_tasks()]
    _say(log, "stack_of_task", "task", found)


def _say(log: BoundLogger, event: str, kind: str, found: Iterable[tuple[str, Sequence[Place]]]) -> None:
    """Logs each stack with the user's innermost line as `at`, if any; a handler's task has its activity's name."""
    placed = [(innermost(reversed(places), only_users=True), name, places) for name, places in found]
    for at, name, places in sorted(placed, key=lambda one: not one[0]):
        where = {"at": at} if at else {}
        log.info(event, **{kind: name}, **where, stack=[f"{file}:{line} {of}" for file, line, of in places])


def _waiting_in(coroutine: Any) -> list[Place]:
    """Returns a task's frames, outermost first; `Task.get_stack` returns the outermost only."""
    places: list[Place] = []
    while coroutine is not None and len(places) < _FRAMES:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return places


def _places(stack: traceback.StackSummary) -> list[Place]:
    """Returns the innermost frames, outermost first, few enough for one log line."""
    return [(frame.filename, frame.lineno or 0, frame.name) for frame in stack[-_FRAMES:]]
