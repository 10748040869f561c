"""The environment that all attempts of one worker share, and the protocols of its services."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flowherd.execution.loop_meter import LoopMeter
from flowherd.ledger.permits import OwnPermits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    from flowherd.activities_and_outcomes import Outcome
    from flowherd.ledger.permits import Permits
    from flowherd.sdk.run_state import CancelReason, RunState


class ShutdownSignal:
    """Signals to every loop and thread of this process that the worker is stopping."""

    __slots__ = ("_event", "_lock", "_waiters")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def requested(self) -> bool:
        """True when the worker is stopping."""
        return self._event.is_set()

    def request(self) -> None:
        """Sets the signal and wakes every waiter, on any loop and in any thread."""
        with self._lock:
            self._event.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # a handler's own loop may be closed by now
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def wait(self) -> None:
        """Waits on the running loop until the worker stops."""
        with self._lock:
            if self._event.is_set():
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def wait_in_thread(self, timeout_s: float | None = None) -> bool:
        """Blocks the calling thread until the worker stops; returns False when `timeout_s` passes first."""
        return self._event.wait(timeout_s)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class StockFiles(Protocol):
    """Creates the API client behind the file methods of a stock context."""

    def client(self) -> Any:
        """Returns an object with the `upload_file` and `download_file` of that SDK's API client."""
        ...


class Outlet(Protocol):
    """The text stream of one attempt: best effort, callable from any thread; its methods neither wait nor raise."""

    def put(self, text: str) -> None:
        """Queues text to be sent soon; it may be dropped."""
        ...

    def end(self, error: str | None) -> None:
        """Ends the stream, with `error` when it failed."""
        ...


class Streams(Protocol):
    """Opens outlets; callable from any thread."""

    def open(self, activity_id: str) -> Outlet:
        """Returns the outlet of one attempt, which needs no closing."""
        ...


class Transfers(Protocol):
    """The file transfers of one attempt; callable from any thread."""

    def download(self, reference: str) -> Future[Path]:
        """Starts a download; the result is the path of the complete file."""
        ...

    def upload(self, path: Path, filename: str | None, content_type: str | None) -> Future[str]:
        """Starts an upload; the result is the reference."""
        ...

    def save(self, content: bytes, filename: str, content_type: str) -> Future[str]:
        """Starts an upload of `content` under this exact name; the result is the reference."""
        ...

    def cancel(self) -> None:
        """Cancels the transfers under way; their futures raise CancelledError."""
        ...

    def close(self) -> None:
        """Releases the files of an attempt that has ended."""
        ...


class Files(Protocol):
    """File transfers for the attempts of one process."""

    def of(self, state: RunState) -> Transfers:
        """Returns the transfers of one attempt; FileTransferFailed once it has ended."""
        ...

    def folder_for(self, state: RunState) -> Path:
        """Returns the folder of an attempt whose files another process transfers; StorageFailed without room."""
        ...


class Trace(Protocol):
    """The trace of one attempt; its methods are callable from any thread and neither wait nor raise."""

    def carrier(self) -> Mapping[str, str]:
        """Returns the W3C headers that pass the trace to another process."""
        ...

    def told_to_stop(self, reason: CancelReason) -> None:
        """Records that the handler was cancelled."""
        ...

    def settled(self, outcome: Outcome) -> None:
        """Records the outcome."""
        ...

    def ended(self) -> None:
        """Records the end of the handler."""
        ...


class Tracing(Protocol):
    """Traces the attempts of one process."""

    def around(self, state: RunState, offload: str) -> AbstractContextManager[None]:
        """Begins the trace of an attempt and sets `state.trace`; the handler must be started within the block."""
        ...

    def continuing(self, carrier: Mapping[str, str]) -> AbstractContextManager[None]:
        """Makes spans begun within the block part of another process's trace."""
        ...

    def flush(self) -> None:
        """Sends the ended spans, without waiting for the result."""
        ...

    def close(self, within_s: float) -> None:
        """Sends all spans, within `within_s` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """The environment of the handlers in one process.

    Attributes:
        process_index: number of the worker process, from 0.
        state: what the app's start-up made, shared by all handlers of this process.
        shutdown: set when the worker begins to drain.
        secrets: values that must not appear in messages or logs (faults.md A12).
        secret_names: further names of parameters and variables whose values are secret (N19).
        stock_files: file access for handlers written for the stock SDK, None without an engine.
        files: file transfers for handlers, None without an engine.
        streams: text streams for handlers, None without an engine.
        permits: permits for activities with `max_concurrent`.
        meter: measures the handlers.
        tracing: traces the attempts, None when tracing is off.
        untaken: parameters that no argument takes and that the log has named, by activity.

    """

    process_index: int = 0
    state: Any = None
    shutdown: ShutdownSignal = field(default_factory=ShutdownSignal)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    secret_names: tuple[str, ...] = ()
    stock_files: StockFiles | None = None
    files: Files | None = None
    streams: Streams | None = None
    permits: Permits = field(default_factory=OwnPermits)
    meter: LoopMeter = field(default_factory=LoopMeter)
    tracing: Tracing | None = None
    untaken: dict[str, set[str]] = field(default_factory=dict, repr=False)
