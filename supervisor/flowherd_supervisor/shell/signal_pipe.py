"""Signals as bytes in a pipe, in the order of their arrival; handlers run no code."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_WAITING = 65_536
_AS_BELOW = {"x86_64", "aarch64", "riscv64", "ppc64le"}
_libc = ctypes.CDLL(None, use_errno=True)


class _Sigaction(ctypes.Structure):
    """`struct sigaction` of glibc and musl on the machines above; a `sigset_t` is 1,024 bits on both."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class SignalPipe:
    """Redirects the signals `numbers` into a pipe until `close`.

    A pipe holds 65,536 unread signals; a socket pair holds 278 and drops further ones.

    Attributes:
        fd: readable when signals have arrived.

    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.fd, self._written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._before = [(number, signal.signal(number, _leave_it_to_the_wakeup)) for number in numbers]
        for number, _ in self._before:
            _finish_one_before_the_next(number)

    def received(self) -> list[signal.Signals]:
        """Returns the signals since the last call, oldest first."""
        try:
            return [signal.Signals(number) for number in os.read(self.fd, _MOST_WAITING)]
        except BlockingIOError:
            return []

    def ignore(self) -> None:
        """Ignores the signals from now on, to the end of the program; CHLD stays, since what still runs is reaped."""
        numbers = {number for number, _ in self._before} - {signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # none may arrive in between
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def close(self) -> None:
        """Restores the previous handlers and closes the pipe."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before:
            if handler is not None:  # installed by C code, so Python cannot restore it
                signal.signal(number, handler)
        os.close(self._written)
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _leave_it_to_the_wakeup(*_: object) -> None:
    """Does nothing: Python writes to the wakeup descriptor only for signals with a handler."""


def _finish_one_before_the_next(number: signal.Signals) -> None:
    """Blocks other signals while the handler of `number` writes.

    Python's own handlers interrupt each other. A CONT right after a TSTP then writes first about once in 500 times,
    and a resumed host stays paused. On machines other than those above this remains so.
    """
    action = _Sigaction()
    if platform.machine() in _AS_BELOW and _libc.sigaction(number, None, ctypes.byref(action)) == 0:
        ctypes.memset(action.mask, 0xFF, len(action.mask))
        _libc.sigaction(number, ctypes.byref(action), None)
