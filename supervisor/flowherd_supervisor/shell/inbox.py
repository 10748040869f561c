"""The only place where the supervisor waits: signals, messages and exits wake it."""

from __future__ import annotations

import contextlib
import selectors
import signal
from typing import TYPE_CHECKING

from flowherd_supervisor.shell.signal_pipe import SignalPipe

if TYPE_CHECKING:
    from flowherd.link.link import Link

HEARD = (
    signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
    signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1,
)  # fmt: skip
_LONGEST_WAIT_S = 3600.0


class Inbox:
    """Signals and messages in one selector."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._signals = SignalPipe(HEARD)
        self._selector.register(self._signals.fd, selectors.EVENT_READ)

    def watch(self, link: Link) -> None:
        """Makes messages on `link` wake `wait`."""
        self._selector.register(link, selectors.EVENT_READ)

    def forget(self, link: Link) -> None:
        """Stops watching a link that has ended."""
        with contextlib.suppress(KeyError):  # already removed when its end of file was read
            self._selector.unregister(link)

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """Returns after a signal, a message, an exit or `timeout_s`, with the signals since the last call."""
        self._selector.select(min(max(timeout_s, 0.0), _LONGEST_WAIT_S))
        return self._signals.received()

    def ignore_signals(self) -> None:
        """Ignores all further signals, for a program that has only to exit with its code."""
        self._signals.ignore()

    def close(self) -> None:
        """Closes the selector and restores the previous signal handlers."""
        self._selector.close()
        self._signals.close()
