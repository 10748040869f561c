"""SIGTERM in an isolate: it ends the handler at work, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any

from flowherd.sdk.context import BaseContext
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.isolates.isolate_protocol import Stop
    from flowherd.sdk.run_state import RunState


class CancelSignal:
    """Ends the handler at work on SIGTERM.

    An `async def` is cancelled. A `def` runs in the main thread, as signal handlers do: it gets an exception where
    it stands. Where that is in the middle of a message, the worker kills an isolate that is to end anyway.
    """

    def __init__(self) -> None:
        self._state: RunState | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stop: Stop | None = None
        self._has_interrupted = False  # the handler at work

    def install(self) -> None:
        """Takes SIGTERM; to be called in the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: self._received())

    @contextlib.contextmanager
    def around(self, state: RunState, task: asyncio.Task[Any] | None = None) -> Iterator[None]:
        """For as long as a handler is at work: in `task`, or in the calling thread."""
        self._has_interrupted = False
        self._task, self._state = task, state
        try:
            if self._pass_on_reason():  # it has come before
                self._received()
            yield
        finally:
            self._state = self._task = None

    @property
    def is_at_work(self) -> bool:
        """A handler is."""
        return self._state is not None

    def explain(self, stop: Stop) -> bool:
        """The worker says why an activity must stop, from another thread; True when its handler is at work."""
        self._stop = stop
        return self._pass_on_reason()

    def _pass_on_reason(self) -> bool:
        state, stop = self._state, self._stop
        if state is None or stop is None or state.activity.activity_id != stop.activity_id:
            return False
        state.cancel_reason = CancelReason(stop.reason)
        return True

    def _received(self) -> None:
        """Interrupts the handler once: a second time would hit it while it cleans up."""
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
