"""The isolate's end of the socket to its worker, and its end with the worker; it runs no activities.

A thread of its own reads, so that no handler keeps an isolate from hearing its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from flowherd.background import start_thread
from flowherd.execution.run_environment import ShutdownSignal
from flowherd.exit_codes import Exit
from flowherd.isolates.frames import MAX_BYTES, FrameError, FrameReader, StreamEnded, drop_sent, framed
from flowherd.isolates.isolate_protocol import Begin, Draining, Leave, Stop, decode_downward

if TYPE_CHECKING:
    import socket

    from flowherd.isolates.frames import Buffer
    from flowherd.isolates.inside.cancel_signal import CancelSignal
    from flowherd.isolates.isolate_protocol import Message


class WorkerConnection:
    """Brings activities to the main thread, and what is said about the one at work to the cancel signal.

    Args:
        sock: one end of a stream that blocks.
        cancel_signal: is told why the handler at work must stop.
        loop: where `next_job` is awaited.

    Attributes:
        shutdown: the worker drains.

    """

    def __init__(
        self, sock: socket.socket, cancel_signal: CancelSignal, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.sock = sock
        self.shutdown = ShutdownSignal()
        self._cancel_signal = cancel_signal
        self._loop = loop
        self._sending = threading.Lock()
        self._jobs: asyncio.Queue[tuple[Begin, bytearray] | None] = asyncio.Queue()
        self._may_leave = False

    def start(self) -> None:
        """Begins to read."""
        start_thread("worker", self._read, failed=leave_with_programs)  # nothing else would end this process

    def send(self, message: Message, body: Buffer = b"") -> None:
        """Sends a message and the bytes that belong to it, as a whole, from any thread; waits for the worker.

        Raises:
            OSError: the worker has gone.
            UnicodeEncodeError: its text is no text.

        """
        buffers = deque(framed(message, body))
        with self._sending:
            while buffers:
                drop_sent(buffers, self.sock.sendmsg(buffers))

    def close(self) -> None:
        """For a copy of this process that a handler has forked: it must not send in the name of the original."""
        self.sock.close()

    async def next_job(self) -> tuple[Begin, bytearray] | None:
        """Waits for an activity and its parameters; None when there are no more."""
        return await self._jobs.get()

    def _read(self) -> None:
        reader = FrameReader(MAX_BYTES, MAX_BYTES)
        try:
            while True:
                if (frame := reader.read(self.sock)) is not None:
                    self._handle(*frame)
        except (StreamEnded, FrameError, OSError):
            if self._may_leave and not self._cancel_signal.is_at_work:
                return  # the main thread leaves the lifespan
        leave_with_programs()

    def _handle(self, message: bytearray, body: bytearray) -> None:
        match decode_downward(message):
            case Begin() as begin:
                self._loop.call_soon_threadsafe(self._jobs.put_nowait, (begin, body))
            case Stop() as stop:
                if self._cancel_signal.explain(stop):
                    _interrupt()
            case Draining():
                self.shutdown.request()
            case Leave():
                self._may_leave = True
                self._loop.call_soon_threadsafe(self._jobs.put_nowait, None)


def _interrupt() -> None:
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
    with contextlib.suppress(
        OSError
    ):  # of a kernel that only looks like Linux: `WorkerConnection` sees the end, too
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
