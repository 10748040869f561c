"""Writes what every thread and task of this process is doing to the log; it changes nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

_FRAMES = 25


def dump_threads(log: BoundLogger) -> None:
    """One record for each thread, also while another thread blocks the loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to see other threads
        log.info(
            "stack_of_thread",
            thread=names.get(ident, str(ident)),
            stack=_lines(traceback.extract_stack(frame)),
        )


def dump_tasks(log: BoundLogger) -> None:
    """One record for each task of the running loop."""
    for task in asyncio.all_tasks():
        frames = task.get_stack(limit=_FRAMES)
        stack = [line for frame in frames for line in _lines(traceback.extract_stack(frame, limit=1))]
        log.info("stack_of_task", task=task.get_name(), stack=stack)


def _lines(stack: traceback.StackSummary) -> list[str]:
    """The innermost frames, outermost first, short enough for one log line."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack[-_FRAMES:]]
