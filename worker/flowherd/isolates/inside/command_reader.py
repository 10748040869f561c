"""Reads what the worker sends, in a thread of its own, so that no handler keeps an isolate from hearing it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from flowherd.background import start_thread
from flowherd.execution.environment import ShutdownSignal
from flowherd.exit_codes import Exit
from flowherd.isolates.frames import MAX_FRAME_BYTES, FrameError, FrameReader, StreamEnded
from flowherd.isolates.isolate_protocol import Begin, Draining, Leave, Stop, decode_downward
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    from flowherd.isolates.inside.cancel_signal import CancelSignal
    from flowherd.isolates.inside.connection import WorkerConnection
    from flowherd.sdk.run_state import RunState


@dataclass(frozen=True, slots=True)
class Job:
    """An activity as it came."""

    begin: Begin
    parameters: bytes | bytearray


class CommandReader:
    """Hands activities to the main thread, and tells the handler at work why it is stopped.

    Args:
        connection: to the worker.
        cancel_signal: is told that the reason of a stop is known.
        loop: where `next_job` is awaited.

    """

    def __init__(
        self, connection: WorkerConnection, cancel_signal: CancelSignal, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.shutdown = ShutdownSignal()
        self.connection = connection
        self.cancel_signal = cancel_signal
        self.loop = loop
        self._state: RunState | None = None
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._begun: Begin | None = None  # its parameters come next
        self._stop: Stop | None = None
        self._may_leave = False

    def start(self) -> None:
        """Begins to read."""
        start_thread("worker", self._read, failed=leave_with_programs)  # nothing else would end this process

    def open(self, state: RunState) -> None:
        """An activity begins."""
        self._state = state
        self._pass_on_stop()  # it may have come before

    def close(self) -> None:
        """The activity has ended."""
        self._state = None

    def _pass_on_stop(self) -> None:
        state, stop = self._state, self._stop
        if state is not None and stop is not None and state.activity.activity_id == stop.activity_id:
            state.cancel_reason = CancelReason(stop.reason)
            self.cancel_signal.reason_known.set()

    async def next_job(self) -> Job | None:
        """Waits for an activity; None when there are no more."""
        return await self._jobs.get()

    def _read(self) -> None:
        reader = FrameReader(MAX_FRAME_BYTES)
        try:
            while True:
                for frame in reader.read(self.connection.sock):
                    self._handle(frame)
        except (StreamEnded, FrameError, OSError):
            if self._may_leave and self._state is None:
                return  # the main thread leaves the lifespan
        leave_with_programs()

    def _handle(self, frame: bytes | bytearray) -> None:
        if self._begun is not None:
            job, self._begun = Job(self._begun, frame), None
            self.loop.call_soon_threadsafe(self._jobs.put_nowait, job)
            return
        match decode_downward(frame):
            case Begin() as begin:
                self._begun = begin
            case Stop() as stop:
                self._stop = stop
                self._pass_on_stop()
            case Draining():
                self.shutdown.request()
            case Leave():
                self._may_leave = True
                self.loop.call_soon_threadsafe(self._jobs.put_nowait, None)


def die_with(lifeline: int) -> None:
    """From now on the kernel kills this process and its programs when the other end of the pipe is closed.

    What has left the process group by `setsid` is not reached. A process that does not lead its group dies alone.
    """
    is_leader = os.getpgrp() == os.getpid()
    with contextlib.suppress(
        OSError
    ):  # of a kernel that only looks like Linux: `CommandReader` sees the end, too
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid() if is_leader else os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    ready = select.poll()
    ready.register(lifeline, select.POLLIN)
    if ready.poll(0):  # it was closed before
        leave_with_programs()


def leave_with_programs() -> NoReturn:
    """Ends this process at once with all that its activities have started: the group is its own while it lives."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(Exit.RELEASED)
