"""The isolate's end of the socket to its worker, and what SIGTERM may interrupt; it knows no activities."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.isolates.frames import head_of
from flowherd.isolates.isolate_protocol import Logged, Saying, encode
from flowherd.sdk.context import BaseContext

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from flowherd.isolates.frames import Buffer
    from flowherd.sdk.run_state import RunState

REASON_S = 0.5  # SIGTERM may overtake the message that says why
_MOST_CHARS = 4000  # of a record: a line of the log holds 4 KiB
_BLANK = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OF_STRUCTLOG = {
    "_logger",
    "_name",
}  # by which its formatter knows its own records, and would not know the replayed
_formatter = logging.Formatter()


class Interruption:
    """What SIGTERM does to the handler at work.

    An `async def` is cancelled. A `def` runs in the main thread, as signal handlers do: it gets an exception where
    it stands, unless that is in the middle of a message to the worker; then right after it.
    """

    def __init__(self) -> None:
        self._main_thread = threading.get_ident()
        self._state: RunState | None = None
        self._task: asyncio.Task[Any] | None = None
        self._shields = 0
        self._is_due = False
        self.reason_known = threading.Event()

    def install(self) -> None:
        """Takes SIGTERM; to be called in the main thread."""
        signal.signal(signal.SIGTERM, lambda *_: self._strike())

    @contextlib.contextmanager
    def around(self, state: RunState, task: asyncio.Task[Any] | None = None) -> Iterator[None]:
        """For as long as a handler is at work: in `task`, or in the calling thread."""
        self.reason_known.clear()
        self._is_due = False
        self._task, self._state = task, state
        try:
            yield
        finally:
            self._state = self._task = None

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """What must not be left half done."""
        if threading.get_ident() != self._main_thread:
            yield
            return
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._is_due and not self._shields:
            self._is_due = False
            self._interrupt()

    def _strike(self) -> None:
        if self._state is None:
            return
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._cancel_once, self._task)
        elif self._shields:
            self._is_due = True
        else:
            self._interrupt()

    def _cancel_once(self, task: asyncio.Task[Any]) -> None:
        """Keeps the handler's loop for a moment: once cancelled, it asks why."""
        if not task.cancelling():  # a second time would hit the handler while it cleans up
            self.reason_known.wait(REASON_S)
            task.cancel()

    def _interrupt(self) -> None:
        if self._state is not None:
            self.reason_known.wait(REASON_S)
            BaseContext(self._state).raise_if_cancelled()
            raise asyncio.CancelledError("the isolate was told to stop")


class Voice:
    """Sends frames to the worker, from any thread; each whole, however long the worker does not read.

    Args:
        sock: one end of a stream that blocks.
        interruption: must not cut a frame in two.

    """

    def __init__(self, sock: socket.socket, interruption: Interruption) -> None:
        self.sock = sock
        self._interruption = interruption
        self._lock = threading.Lock()
        self._speaker = 0

    @property
    def is_speaking_here(self) -> bool:
        """Whether this very thread is in the middle of a frame: what a destructor wants to say must wait."""
        return self._speaker == threading.get_ident()

    def say(self, saying: Saying, follows: Buffer | None = None) -> None:
        """Sends a message and the frame that belongs to it.

        Raises:
            OSError: the worker has gone.
            UnicodeEncodeError: its text is no text.

        """
        frames: list[Buffer] = [encode(saying), *([] if follows is None else [follows])]
        buffers = [memoryview(part) for frame in frames for part in (head_of(frame), frame)]
        with self._interruption.shield(), self._lock:
            self._speaker = threading.get_ident()
            try:
                self._send_all(buffers)
            finally:
                self._speaker = 0

    def _send_all(self, buffers: list[memoryview]) -> None:
        while buffers:
            sent = self.sock.sendmsg(buffers)
            while buffers and sent >= buffers[0].nbytes:
                sent -= buffers.pop(0).nbytes
            if sent:
                buffers[0] = buffers[0][sent:]

    def close(self) -> None:
        """For a copy of this process that a handler has forked: it must not speak for the original."""
        self.sock.close()


class UpwardHandler(logging.Handler):
    """Sends each record of this process's log to the worker, whose log it is to appear in.

    Args:
        voice: what it is sent by; without effect once the worker has gone.

    """

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        if self._voice.is_speaking_here:
            return
        try:
            self._voice.say(_logged(record))
        except OSError:
            return
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not take the handler down
            self.handleError(record)


def _logged(record: logging.LogRecord) -> Logged:
    fields = {name: value for name, value in vars(record).items() if name not in _BLANK | _OF_STRUCTLOG}
    if isinstance(record.msg, dict):  # how structlog hands an event to the standard library
        fields.update(record.msg)
        message = str(fields.pop("event", ""))
    else:
        message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = _formatter.formatException(record.exc_info)
    return Logged(record.name, record.levelno, _text(message), {str(k): _plain(v) for k, v in fields.items()})


def _plain(value: Any) -> Any:
    """As the worker's log would show it: JSON as it is, anything else in its own words."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):
        return _text(repr(value))
    return msgspec.Raw(encoded) if len(encoded) <= _MOST_CHARS else _text(encoded.decode())


def _text(text: str) -> str:
    return text[-_MOST_CHARS:].encode(errors="replace").decode()
