"""Activities that run in isolates and write their pids to a file."""

from __future__ import annotations

import os
import socket
import subprocess
import time

from flowherd import Registry

socket.setdefaulttimeout(0.3)  # as an app may: the host's own connections wait for longer
registry = Registry()


def note(path: str, *facts: object) -> None:
    """Appends one line with a single write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, facts)) + "\n").encode())
    os.close(fd)


@registry.activity(offload="process")
def who(seconds: float, journal: str) -> dict[str, object]:
    """Writes its pid, and waits."""
    note(journal, os.getpid(), os.getppid(), os.getpgid(0))
    time.sleep(seconds)
    return {
        "pid": os.getpid(),
        "process": os.environ["FLOWHERD_PROCESS_INDEX"],
        "expendable": open("/proc/self/oom_score_adj", encoding="ascii").read().strip() == "500",
    }


@registry.activity(offload="process")
def with_program(journal: str) -> None:
    """Starts a program, writes its pid, and dies."""
    program = subprocess.Popen(["sleep", "60"])
    note(journal, program.pid)
    os.abort()
