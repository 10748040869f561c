"""Writes what every thread and task of this process is doing to the log; it changes nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

_FRAMES = 25


def dump_threads(log: BoundLogger) -> None:
    """Logs a record for each thread, also while another thread blocks the loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to see other threads
        log.info(
            "stack_of_thread",
            thread=names.get(ident, str(ident)),
            stack=_lines(traceback.extract_stack(frame)),
        )


def dump_tasks(log: BoundLogger) -> None:
    """Logs a record for each task of the running loop, down to what it waits in."""
    for task in asyncio.all_tasks():
        log.info("stack_of_task", task=task.get_name(), stack=_waiting_in(task.get_coro()))


def _waiting_in(coroutine: Any) -> list[str]:
    """A task's own frame and those it waits in, outermost first: `Task.get_stack` shows the outermost alone."""
    lines: list[str] = []
    while coroutine is not None and len(lines) < _FRAMES:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return lines


def _lines(stack: traceback.StackSummary) -> list[str]:
    """The innermost frames, outermost first, short enough for one log line."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack[-_FRAMES:]]
