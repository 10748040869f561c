"""Programs that are started without stdin, stdout or stderr (faults.md N14)."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from flowherd.process.open_standard_streams import open_closed_streams
open_closed_streams()
streams = [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()]
sys.stdout.write("x"), sys.stderr.write("x")
null = [os.readlink(f"/proc/self/fd/{fd}") == os.devnull for fd in range(3)]
next_fd = os.open(os.devnull, os.O_RDONLY)
os.write(9, f"{streams} {null} {next_fd > 2} {[os.get_inheritable(fd) for fd in range(3)]}".encode())
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_n14_a_closed_stream_is_dev_null_and_nothing_else_gets_its_number(closed: tuple[int, ...]) -> None:
    """N14: each alone and all; Python itself has None in its place."""
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    shell = f'exec 9>&1 </dev/zero; exec "$@" 1>/dev/zero 2>/dev/zero {redirections}'
    words = ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=20, check=False)
    null = [fd in closed for fd in range(3)]
    assert done.stdout.decode() == f"[0, 1, 2] {null} True [True, True, True]"
