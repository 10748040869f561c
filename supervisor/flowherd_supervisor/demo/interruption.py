"""Ctrl-C and TERM as facts to look at between two steps, so that no program is started and then forgotten."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedDemoError(Exception):
    """Somebody asked the demo to stop; `signal_number` says how."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Interruption:
    """While entered, the first signal is remembered for `check`, and a second one raises where it arrives."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._before = [(number, signal.getsignal(number)) for number in _SIGNALS]

    def check(self) -> None:
        """Raise InterruptedDemoError if a signal has arrived."""
        if self._received is not None:
            raise InterruptedDemoError(self._received)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)
