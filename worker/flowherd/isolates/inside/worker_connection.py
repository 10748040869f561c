"""The isolate hears its worker: activities, the order to stop the one at work, and its end with the worker.

A thread of its own listens, so that no handler keeps an isolate from hearing anything. SIGTERM ends the handler at
work, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from flowherd.background import start_thread
from flowherd.execution.run_environment import ShutdownSignal
from flowherd.exit_codes import Exit
from flowherd.isolates.channel import ChannelBroken, ChannelEnded
from flowherd.isolates.isolate_protocol import Begin, Draining, Stop, decode_downward
from flowherd.sdk.context import BaseContext
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.isolates.channel import Channel, Received
    from flowherd.sdk.run_state import RunState


class WorkerConnection:
    """Brings activities to the main thread, and ends the handler at work when it must stop.

    An `async def` is cancelled. A `def` runs in the main thread, as signal handlers do: it gets an exception where
    it stands.

    Args:
        channel: this end of it.
        loop: where `next_job` is awaited.

    Attributes:
        shutdown: the worker drains.

    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.shutdown = ShutdownSignal()
        self._channel = channel
        self._loop = loop
        self._jobs: asyncio.Queue[tuple[Begin, Received] | None] = asyncio.Queue()
        self._stop_reason: CancelReason | None = None  # of the last activity here
        self._state: RunState | None = None  # of the handler at work, as the next two
        self._task: asyncio.Task[Any] | None = None
        self._has_interrupted = False

    def start(self) -> None:
        """Begins to listen."""
        start_thread("worker", self._listen, failed=leave_with_programs)  # nothing else would do so

    def take_sigterm(self) -> None:
        """SIGTERM means the handler at work; to be called in the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: self._interrupt())

    async def next_job(self) -> tuple[Begin, Received] | None:
        """Waits for an activity and its parameters; None when there are no more."""
        return await self._jobs.get()

    @contextlib.contextmanager
    def around(self, state: RunState, task: asyncio.Task[Any] | None = None) -> Iterator[None]:
        """For as long as a handler is at work: in `task`, or in the calling thread."""
        self._has_interrupted = False
        self._task, self._state = task, state
        try:
            if self._stop_reason is not None:  # it has come before
                state.cancel_reason = self._stop_reason
                self._interrupt()
            yield
        finally:
            self._state = self._task = None

    def _listen(self) -> None:
        with contextlib.suppress(ChannelEnded, ChannelBroken, OSError):
            while True:
                self._handle(*self._channel.receive())
        if self._state is not None:
            leave_with_programs()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the main thread leaves by itself
            self._loop.call_soon_threadsafe(self._jobs.put_nowait, None)  # and so the lifespan is left

    def _handle(self, message: Received, body: Received) -> None:
        match decode_downward(message):
            case Begin() as begin:
                self._loop.call_soon_threadsafe(self._jobs.put_nowait, (begin, body))
            case Stop(reason):
                self._stop_reason = CancelReason(reason)
                if (state := self._state) is not None:
                    state.cancel_reason = self._stop_reason
                    _send_sigterm()
            case Draining():
                self.shutdown.request()

    def _interrupt(self) -> None:
        """Ends the handler at work once: a second time would hit it while it cleans up."""
        state = self._state
        if state is None:
            return
        is_stopping = self._has_interrupted or state.is_told
        self._has_interrupted = True
        if state.files is not None:
            state.files.cancel()  # also those for which another thread of the handler waits
        if is_stopping:
            return
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            return
        BaseContext(state).raise_if_cancelled()
        raise asyncio.CancelledError("the isolate was told to stop")


def _send_sigterm() -> None:
    """Sends SIGTERM to the main thread, where a handler is at work, and to its programs.

    The kernel gives what is sent to the whole process to any of its threads: to another one where the main thread has
    not yet run after a freeze (faults.md N4). Then nothing would interrupt the handler.
    """
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGTERM)
    os.kill(_with_programs(), signal.SIGTERM)


def die_with(lifeline: int) -> None:
    """From now on the kernel kills this process and its programs when the other end of the pipe is closed.

    What has left the process group by `setsid` is not reached. A process that does not lead its group dies alone.
    """
    with contextlib.suppress(OSError):  # not quite Linux: `WorkerConnection` sees the end, too
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, _with_programs())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    ready = select.poll()
    ready.register(lifeline, select.POLLIN)
    if ready.poll(0):  # it was closed before
        leave_with_programs()


def leave_with_programs() -> NoReturn:
    """Ends this process at once with all that its activities have started: the group is its own while it lives."""
    if (group := _with_programs()) < 0:
        os.kill(group, signal.SIGKILL)
    os._exit(Exit.RELEASED)


def _with_programs() -> int:
    """The kernel's number of this process's group while it leads one, else of the process alone."""
    return -os.getpid() if os.getpgrp() == os.getpid() else os.getpid()
