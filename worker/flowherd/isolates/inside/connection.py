"""The isolate's end of the socket to its worker, and the log that goes through it; it knows no activities."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.isolates.frames import drop_sent, framed
from flowherd.isolates.isolate_protocol import Logged, Message

if TYPE_CHECKING:
    import socket

    from flowherd.isolates.frames import Buffer
    from flowherd.isolates.inside.cancel_signal import CancelSignal

_MOST_CHARS = 4000  # of a record: a line of the log holds 4 KiB
_BLANK = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OF_STRUCTLOG = {
    "_logger",
    "_name",
}  # by which its formatter knows its own records, and would not know the replayed
_formatter = logging.Formatter()


class WorkerConnection:
    """Sends frames to the worker, from any thread; each whole, however long the worker does not read.

    Args:
        sock: one end of a stream that blocks.
        cancel_signal: must not cut a frame in two.

    """

    def __init__(self, sock: socket.socket, cancel_signal: CancelSignal) -> None:
        self.sock = sock
        self._cancel_signal = cancel_signal
        self._lock = threading.Lock()
        self._sender = 0

    @property
    def is_sending_here(self) -> bool:
        """The calling thread is in the middle of a frame: what a destructor logs then cannot be sent."""
        return self._sender == threading.get_ident()

    def send(self, message: Message, follows: Buffer | None = None) -> None:
        """Sends a message and the frame that belongs to it.

        Raises:
            OSError: the worker has gone.
            UnicodeEncodeError: its text is no text.

        """
        buffers = deque(framed(message, follows))
        with self._cancel_signal.shield(), self._lock:
            self._sender = threading.get_ident()
            try:
                while buffers:
                    drop_sent(buffers, self.sock.sendmsg(buffers))
            finally:
                self._sender = 0

    def close(self) -> None:
        """For a copy of this process that a handler has forked: it must not send in the name of the original."""
        self.sock.close()


class UpwardHandler(logging.Handler):
    """Sends each record of this process's log to the worker, whose log it is to appear in.

    Args:
        connection: without effect once the worker has gone.

    """

    def __init__(self, connection: WorkerConnection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        if self._connection.is_sending_here:
            return
        try:
            self._connection.send(_logged(record))
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
