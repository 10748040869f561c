"""N1: the keeper ends workers and isolates of a dead supervisor, here real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from harness import eventually

from flowherd.ledger import Ledger, Life
from flowherd_supervisor.keeper import orphans
from flowherd_supervisor.keeper.orphans import Orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAITS = "import threading; threading.Event().wait(60)"
HAS_PROGRAM = f"""
import subprocess, sys, threading
print(subprocess.Popen([sys.executable, "-c", {WAITS!r}]).pid, flush=True)
threading.Event().wait(60)
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a program in its own process group, which is killed at the end of the test."""
    made: list[subprocess.Popen[str]] = []

    def begin(program: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", program]
        made.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0))
        return made[-1]

    yield begin
    for process in made:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger with three live workers, and a short time until workers are killed."""
    monkeypatch.setattr(orphans, "WORKERS_KILLED_AFTER_S", 0.3)
    ledger = Ledger(processes=3, records=2)
    for number in range(3):
        ledger.segments[number].open(index=number, incarnation=1, now=0.0)
    return ledger


def lives(ledger: Ledger) -> list[Life]:
    return [segment.life for segment in ledger.segments[:3]]


def test_n1_a_process_that_has_exited_does_not_keep_the_others_alive(
    ledger: Ledger, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    """N1: the first is already reaped; the others are killed together, not one after the other."""
    gone, *waiting = (start(program) for program in ("", WAITS, WAITS))
    changes: list[int] = []
    left = Orphans(ledger, lambda: changes.append(1))
    for number, process in enumerate((gone, *waiting)):
        left.watch_worker(number, os.pidfd_open(process.pid))
    gone.wait()
    since = time.monotonic()
    asyncio.run(left.end())
    assert lives(ledger) == [Life.ENDED] * 3
    assert len(changes) == 3
    assert [process.wait(10) for process in waiting] == [-signal.SIGKILL] * 2
    assert time.monotonic() - since < 5.0


def test_n1_an_error_with_one_process_is_logged_and_the_others_end(
    ledger: Ledger, start: Callable[[str], subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """N1: one descriptor is invalid."""
    process = start(WAITS)
    left = Orphans(ledger, lambda: None)
    closed = os.pidfd_open(process.pid)
    left.watch_worker(0, closed)
    left.watch_worker(1, os.pidfd_open(process.pid))
    os.close(closed)
    asyncio.run(left.end())
    assert lives(ledger) == [Life.LIVE, Life.ENDED, Life.LIVE]
    assert "internal_error" in caplog.text


@pytest.mark.parametrize("has_ended", [False, True], ids=["alive", "reaped"])
def test_an_isolates_programs_end_with_it(
    ledger: Ledger, start: Callable[[str], subprocess.Popen[str]], *, has_ended: bool
) -> None:
    """The kernel finds the group by the pidfd, also after its leader's end (Linux 6.9)."""
    isolate = start(HAS_PROGRAM)
    program = program_of(isolate)
    left = Orphans(ledger, lambda: None)
    left.watch_isolate(isolate.pid, os.pidfd_open(isolate.pid))
    if has_ended:
        if not kernel_knows_groups(isolate.pid):
            pytest.skip(
                "before Linux 6.9 a group whose leader has ended is left alone: its number may be a stranger's"
            )
        isolate.kill()
        isolate.wait()
    asyncio.run(left.end())
    assert isolate.wait(10) == -signal.SIGKILL
    eventually(lambda: is_gone(program), "the end of what it has started")


def test_before_linux_6_9_a_group_is_killed_while_its_leader_stands(
    start: Callable[[str], subprocess.Popen[str]],
) -> None:
    """A stopped process does not exit by itself, so its pid is not reused."""
    isolate = start(HAS_PROGRAM)
    program = program_of(isolate)
    asyncio.run(orphans.kill_stopped_group(isolate.pid, os.pidfd_open(isolate.pid)))
    assert isolate.wait(10) == -signal.SIGKILL
    eventually(lambda: is_gone(program), "the end of what it has started")


@pytest.mark.parametrize("kill", ["end", "kill_stopped_group"])
def test_an_isolate_that_has_left_its_group_ends_as_well(
    ledger: Ledger, start: Callable[[str], subprocess.Popen[str]], kill: str
) -> None:
    """A handler may call `setpgid`."""
    isolate = start(f"import os; os.setpgid(0, os.getpgid(os.getppid())); print(flush=True); {WAITS}")
    assert isolate.stdout is not None
    isolate.stdout.readline()
    pidfd = os.pidfd_open(isolate.pid)
    left = Orphans(ledger, lambda: None)
    left.watch_isolate(isolate.pid, pidfd)
    asyncio.run(left.end() if kill == "end" else orphans.kill_stopped_group(isolate.pid, pidfd))
    assert isolate.wait(10) == -signal.SIGKILL


def test_before_linux_6_9_the_group_of_a_leader_that_has_ended_is_left_alone(
    start: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may have been reused."""
    process = start("")
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append(pid))
    asyncio.run(orphans.kill_stopped_group(process.pid, pidfd))
    assert killed == []


def test_n1_the_keeper_ends_whatever_blocks_it() -> None:
    """N1: a kernel timer works despite exceptions and blocked loops."""
    program = (
        "import threading\n"
        "from flowherd_supervisor.keeper import orphans\n"
        "orphans.KEEPER_ENDS_AFTER_S = 0.05\n"
        "orphans.limit_the_keeper()\n"
        "threading.Lock().acquire() and __import__('ctypes').PyDLL(None).sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=10)
    assert done.returncode == -signal.SIGALRM


def test_an_isolate_that_was_reaped_is_forgotten(ledger: Ledger) -> None:
    """The supervisor has killed its group, and its descriptor is closed."""
    reader, writer = os.pipe()
    left = Orphans(ledger, lambda: None)
    left.watch_isolate(4711, reader)
    left.forget_isolate(4711)
    left.forget_isolate(4711)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(reader)
    os.close(writer)


def program_of(isolate: subprocess.Popen[str]) -> int:
    assert isolate.stdout is not None
    return int(isolate.stdout.readline())


def kernel_knows_groups(pid: int) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, 0, None, orphans._PROCESS_GROUP)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
