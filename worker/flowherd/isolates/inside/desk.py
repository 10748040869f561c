"""Where an isolate takes what its worker says: activities, cancellations, answers; it runs nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from flowherd.execution.environment import ShutdownSignal
from flowherd.exits import Exit
from flowherd.isolates.frames import MAX_FRAME_BYTES, FrameError, FrameReader, StreamEnded
from flowherd.isolates.inside.remote import Calls
from flowherd.isolates.isolate_protocol import (
    Answered,
    Begin,
    Cancel,
    Dropped,
    End,
    Refused,
    Shutdown,
    decode_downward,
)
from flowherd.sdk.run_state import CancelReason
from flowherd.tasks import start_thread

if TYPE_CHECKING:
    from flowherd.isolates.inside.remote import RemoteState
    from flowherd.isolates.inside.voice import Interruption, Voice


@dataclass(frozen=True, slots=True)
class Job:
    """An activity as it came."""

    begin: Begin
    parameters: bytes | bytearray


class Desk:
    """Takes what the worker says, in a thread of its own.

    Args:
        voice: to the worker.
        interruption: is told why the handler at work shall stop.
        loop: where `next_job` is awaited.

    """

    def __init__(self, voice: Voice, interruption: Interruption, loop: asyncio.AbstractEventLoop) -> None:
        self.voice = voice
        self.interruption = interruption
        self.loop = loop
        self.calls = Calls(voice)
        self.shutdown = ShutdownSignal()
        self.state: RemoteState | None = None
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._begun: Begin | None = None  # its parameters come next
        self._cancel: Cancel | None = None
        self._may_leave = False

    def start(self) -> None:
        """Begins to listen."""
        start_thread(
            "worker", self._listen, failed=leave_with_programs
        )  # nothing else would end this process

    def open(self, state: RemoteState) -> None:
        """An activity begins."""
        self.state = state
        self._pass_on_cancel()  # it may have come before

    def close(self) -> None:
        """The activity has ended."""
        if self.state is not None:
            self.state.note_end()
            self.state = None

    def _pass_on_cancel(self) -> None:
        state, cancel = self.state, self._cancel
        if state is not None and cancel is not None and state.activity.activity_id == cancel.activity_id:
            state.cancel_reason = CancelReason(cancel.reason)
            self.interruption.reason_known.set()

    async def next_job(self) -> Job | None:
        """Waits for an activity; None when there are no more."""
        return await self._jobs.get()

    def _listen(self) -> None:
        reader = FrameReader(MAX_FRAME_BYTES)
        try:
            while True:
                for frame in reader.read(self.voice.sock):
                    self._heed(frame)
        except (StreamEnded, FrameError, OSError):
            if self._may_leave and self.state is None:
                return  # the main thread leaves the lifespan
        leave_with_programs()

    def _heed(self, frame: bytes | bytearray) -> None:
        if self._begun is not None:
            job, self._begun = Job(self._begun, frame), None
            self.loop.call_soon_threadsafe(self._jobs.put_nowait, job)
            return
        match decode_downward(frame):
            case Begin() as begin:
                self._begun = begin
            case Cancel() as cancel:
                self._cancel = cancel
                self._pass_on_cancel()
            case Shutdown():
                self.shutdown.request()
            case End():
                self._may_leave = True
                self.loop.call_soon_threadsafe(self._jobs.put_nowait, None)
            case (Answered() | Refused() | Dropped()) as answer:
                self.calls.heed(answer)


def leave_with_programs() -> NoReturn:
    """Ends this process at once with all that its activities have started: the group is its own while it lives."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(Exit.RELEASED)
