"""N1: background tasks and threads never end unnoticed."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from flowherd.background import Tasks, start_thread
from flowherd.exit_codes import Exit
from flowherd.link.link import Link
from flowherd.link.messages import Drain, Release, encode
from flowherd.process import supervisor_commands
from flowherd.process.supervisor_commands import CommandReader

if TYPE_CHECKING:
    import pytest

    from flowherd.link.messages import Downward

CEILING_S = 10.0


async def test_n1_a_task_that_raises_is_logged_and_its_starter_told(caplog: pytest.LogCaptureFixture) -> None:
    """N1: the error of a task that is not awaited would be lost."""

    async def fail() -> None:
        raise RuntimeError("a defect")

    told: list[BaseException] = []
    tasks = Tasks()
    await asyncio.wait({tasks.spawn(fail(), told.append), tasks.spawn(fail())})
    await asyncio.sleep(0)
    assert [str(error) for error in told] == ["a defect"]
    assert caplog.text.count("RuntimeError: a defect") == 2


def test_n1_a_thread_that_exits_is_logged_and_its_starter_told(caplog: pytest.LogCaptureFixture) -> None:
    """N1: Python ignores a SystemExit in a thread."""
    told: list[bool] = []
    start_thread("quiet", lambda: sys.exit(3), lambda: told.append(True)).join(CEILING_S)
    assert told == [True]
    assert "SystemExit: 3" in caplog.text


def test_n1_an_order_that_cannot_be_read_or_obeyed_does_not_make_a_worker_deaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N1: it must still get later orders, and the end of the supervisor."""
    left = threading.Event()
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    monkeypatch.setattr(supervisor_commands, "leave", leave)
    monkeypatch.setattr(supervisor_commands, "ORPHAN_EXIT_S", 0.0)
    heard: list[Downward] = []

    def deliver(message: Downward) -> None:
        heard.append(message)
        if isinstance(message, Drain):
            raise RuntimeError("a defect")  # noqa: TRY004

    ours, theirs = Link.pair()
    receiver = CommandReader(theirs)
    receiver.serve(deliver)
    receiver.start()
    ours._sock.send(b"garbage")
    ours._sock.send(encode(Drain(1.0)))
    ours.close()
    assert left.wait(CEILING_S)
    assert heard == [Drain(1.0), Release(supervisor_commands.ORPHAN_RELEASE_S)]
    assert codes == [Exit.RELEASED]
    theirs.close()
