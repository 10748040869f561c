"""The supervisor's commands: a thread of the worker process reads them, and workers execute them."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import structlog

from flowherd.background import start_thread
from flowherd.exit_codes import Exit
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import (
    Downward,
    Drain,
    DumpStacks,
    IsolateEnded,
    IsolateStarted,
    Quiet,
    Release,
    Resume,
    SetMoved,
    SetSlots,
    decode_downward,
)
from flowherd.process.log_stacks import dump_activities, dump_tasks, dump_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowherd.ledger import Ledger, Segment
    from flowherd.worker.worker import Worker

ORPHAN_RELEASE_S = 2.0  # for requeueing everything after the supervisor has ended (faults.md P1)
ORPHAN_EXIT_S = 3.0  # until exit, even with a blocked loop; the keeper kills at 4 s
_SHOWN = 200  # characters of a message

log = structlog.stdlib.get_logger(__name__)


class CommandReader:
    """Reads the link in a thread of its own, so that the end of the supervisor is noticed even with a blocked loop.

    Args:
        link: the link to the supervisor.
        ledger: counts how often an activity was claimed; None to log no activities.
        segments: the segments of the workers in this process, for `ctl stacks`.

    """

    def __init__(self, link: Link, ledger: Ledger | None = None, segments: Sequence[Segment] = ()) -> None:
        self._link = link
        self._ledger = ledger
        self._segments = segments
        self._lock = threading.Lock()
        self._early: list[Downward] = []
        self._deliver: Callable[[Downward], None] | None = None

    def start(self) -> None:
        """Starts the thread."""
        start_thread("link", self._read, failed=lambda: leave(Exit.INTERNAL))  # no process without commands

    def serve(self, deliver: Callable[[Downward], None]) -> None:
        """Passes all commands to `deliver` from now on, from any thread; earlier ones are delivered first."""
        with self._lock:
            self._deliver = deliver
            for message in self._early:
                deliver(message)

    def _order(self, message: Downward) -> None:
        if isinstance(message, DumpStacks):
            if self._ledger is not None:
                dump_activities(log, self._ledger, self._segments)
            dump_threads(log)  # from this thread, so that a blocked loop is shown
        with self._lock:
            if self._deliver is None:
                self._early.append(message)
            else:
                self._deliver(message)

    def _take(self, data: bytes) -> None:
        """Handles a message; an invalid one must not keep this thread from noticing the end of the link."""
        try:
            self._order(decode_downward(data))
        except Exception:
            log.exception("internal_error", order=data[:_SHOWN].decode(errors="replace"))

    def _read(self) -> None:
        try:
            while (received := self._link.receive()) is not None:
                self._take(received[0])
        except LinkClosed:
            log.warning("supervisor_gone", note="giving the work back")
            self._order(Release(ORPHAN_RELEASE_S))
            threading.Event().wait(ORPHAN_EXIT_S)
            leave(Exit.RELEASED)


def leave(code: int) -> None:
    """Ends without waiting for threads that user code left behind (faults.md A16, C16)."""
    os._exit(code)


def execute(worker: Worker, message: Downward) -> None:
    """Executes one command of the supervisor, on the worker's loop."""
    match message:
        case SetSlots(limit, n):
            worker.set_slots(limit, n)
        case SetMoved(moved, kept):
            worker.set_moved(moved, kept)
        case Quiet():
            worker.quiet()
        case Resume():
            worker.resume()
        case Drain(within_s, others_go_on):
            worker.drain(within_s, others_go_on=others_go_on)
        case Release(within_s):
            worker.release(within_s)
        case DumpStacks():
            dump_tasks(log)
        case IsolateStarted(key, pid) if worker.isolates is not None:
            worker.isolates.started(key, pid)
        case IsolateEnded(key, status, reason) if worker.isolates is not None:
            worker.isolates.ended(key, status, reason)
        case _:
            log.warning("order_not_for_workers", order=type(message).__name__)
