"""Signals as bytes in a pipe, in the order they came; nothing runs in a handler, and nothing is decided here."""

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
    """From its making to `close`, the signals `numbers` are read here and do nothing else.

    A pipe holds 65,536 of them while nobody reads; a socket pair holds 278 and drops what comes last.

    Attributes:
        fd: readable when there is something to tell.

    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self.fd, self._written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._before = [(number, signal.signal(number, _leave_it_to_the_wakeup)) for number in numbers]
        for number, _ in self._before:
            _finish_one_before_the_next(number)

    def received(self) -> list[signal.Signals]:
        """The signals since the last call, the oldest first."""
        try:
            return [signal.Signals(number) for number in os.read(self.fd, _MOST_WAITING)]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Gives signals back to whoever had them."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before:
            if handler is not None:  # not installed from Python, so that Python cannot install it
                signal.signal(number, handler)
        os.close(self._written)
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _leave_it_to_the_wakeup(*_: object) -> None:
    """A handler must exist for the wakeup descriptor to be written to."""


def _finish_one_before_the_next(number: signal.Signals) -> None:
    """Lets no other signal in while the handler of `number` writes.

    Python's own handlers interrupt each other. A CONT that comes right behind a TSTP then writes first, about once in
    500 times, and a host that was told to go on stays quiet. Elsewhere than on these machines it is left at that.
    """
    action = _Sigaction()
    if platform.machine() in _AS_BELOW and _libc.sigaction(number, None, ctypes.byref(action)) == 0:
        ctypes.memset(action.mask, 0xFF, len(action.mask))
        _libc.sigaction(number, ctypes.byref(action), None)
