"""The one place where the supervisor waits: signals, messages and exits wake it; it decides nothing."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowherd.process.link import Link

HEARD = (
    signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
    signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1,
)  # fmt: skip
_LONGEST_WAIT_S = 3600.0
_MOST_WAITING = 65_536


class Inbox:
    """Signals arrive as bytes in a pipe that Python's own handler writes to; nothing runs in a handler.

    A pipe holds 65,536 of them while the supervisor is busy; a socket pair holds 278 and drops what comes last.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _leave_it_to_the_wakeup) for number in HEARD}

    def watch(self, link: Link) -> None:
        """From now on a message on `link` wakes `wait`."""
        self._selector.register(link, selectors.EVENT_READ)

    def forget(self, link: Link) -> None:
        """The link is at its end."""
        with contextlib.suppress(KeyError):  # forgotten already, when its end of file was read
            self._selector.unregister(link)

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """Returns after a signal, a message, an exit or `timeout_s`, with the signals since the last call."""
        self._selector.select(min(max(timeout_s, 0.0), _LONGEST_WAIT_S))
        try:
            return [signal.Signals(number) for number in os.read(self._woken, _MOST_WAITING)]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Gives signals back to whoever had them."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            if handler is not None:  # not installed from Python, so that Python cannot install it
                signal.signal(number, handler)
        self._selector.close()
        os.close(self._wake)
        os.close(self._woken)


def _leave_it_to_the_wakeup(*_: object) -> None:
    """A handler must exist for the wakeup descriptor to be written to."""
