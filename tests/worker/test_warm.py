"""What is made before the fork must be safe to share."""

from __future__ import annotations

import subprocess
import sys

_PROBE = """
import os, sys
def links():
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "socket:" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return found
before = links(), len(os.listdir("/proc/self/task"))
from flowherd.process.warm import warm_up
warm_up()
import gc
assert (links(), len(os.listdir("/proc/self/task"))) == before, "a socket or a thread would survive the fork"
assert gc.get_freeze_count() > 0
assert {"httpcore", "h11", "flowherd.process.build"} <= sys.modules.keys()
import asyncio
assert asyncio._get_running_loop() is None
"""


def test_warming_up_leaves_no_socket_no_thread_and_no_loop() -> None:
    """Law 4; faults.md P20: whatever exists at the fork exists in every child."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
