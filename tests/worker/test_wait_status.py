"""Wait statuses in words."""

from __future__ import annotations

import os
import signal

import pytest

from flowherd.wait_status import NOT_OUT_OF_MEMORY, OURS, describe_status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with code 0"),
        (3 << 8, "exited with code 3"),
        (255 << 8, "exited with code 255"),
        (signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (signal.SIGSEGV | 0x80, "was killed by SIGSEGV"),
        (signal.SIGABRT, "was killed by SIGABRT"),
        (63, "was killed by signal 63"),
        (signal.SIGKILL | OURS, "was stopped by flowherd"),
        (signal.SIGKILL | OURS | NOT_OUT_OF_MEMORY, "was stopped by flowherd"),
    ],
)
def test_a_status_is_described(status: int, words: str) -> None:
    """Faults C4, C7, C10; 0x80 says that a core was dumped."""
    assert describe_status(status) == words


@pytest.mark.parametrize(("number", "words"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGKILL")])
def test_a_real_death_is_described(number: signal.Signals, words: str) -> None:
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pause()
    assert f"was killed by {words}" in describe_status(os.waitpid(pid, 0)[1])
