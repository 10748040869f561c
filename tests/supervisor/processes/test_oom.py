"""The cause of a SIGKILL: the kernel's out-of-memory killer or another process."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from flowherd.wait_status import describe_status
from flowherd_supervisor.processes.oom import OomCounter

if TYPE_CHECKING:
    from pathlib import Path


def tree(root: Path, kills: int | None) -> Path:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/app.slice\n")
    group = root / "sys/fs/cgroup/app.slice"
    group.mkdir(parents=True, exist_ok=True)
    if kills is not None:
        (group / "memory.events").write_text(f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {kills}\n")
    return root


def test_a_kill_that_the_kernel_has_counted_is_out_of_memory(tmp_path: Path) -> None:
    """C10: the cause is known."""
    counter = OomCounter(tree(tmp_path, 2))
    tree(tmp_path, 3)
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL (out of memory)"


def test_a_kill_that_the_kernel_has_not_counted_is_not_out_of_memory(tmp_path: Path) -> None:
    """A manual `kill -9` must not look like a lack of memory; each count explains one exit."""
    counter = OomCounter(tree(tmp_path, 2))
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL"
    tree(tmp_path, 3)
    counter.annotate(signal.SIGKILL)
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL"


def test_two_kills_that_the_kernel_has_counted_at_once_are_both_out_of_memory(tmp_path: Path) -> None:
    """C10: both are reaped within one look; a kill that comes later has its own cause."""
    now = [0.0]
    counter = OomCounter(tree(tmp_path, 2), lambda: now[0])
    tree(tmp_path, 4)
    for _ in range(2):
        assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL (out of memory)"
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL"
    tree(tmp_path, 6)  # one of them is no process of this host
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL (out of memory)"
    now[0] += 60.0
    assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL"


def test_without_a_counter_the_question_stays(tmp_path: Path) -> None:
    """Root group, cgroup v1 or no /proc: it may have been the cause."""
    for counter in (OomCounter(tree(tmp_path / "a", None)), OomCounter(tmp_path / "nothing")):
        assert describe_status(counter.annotate(signal.SIGKILL)) == "was killed by SIGKILL (out of memory?)"


def test_other_ends_are_left_as_they_are(tmp_path: Path) -> None:
    """The out-of-memory killer sends only SIGKILL."""
    counter = OomCounter(tree(tmp_path, 2))
    tree(tmp_path, 3)
    assert counter.annotate(signal.SIGSEGV) == signal.SIGSEGV
    assert counter.annotate(3 << 8) == 3 << 8
