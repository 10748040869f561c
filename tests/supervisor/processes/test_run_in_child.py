"""A function in a process of its own: its bytes come back, or this process exits as that one did.

Each test is a separate program, since pytest has threads and flowherd refuses to fork beside them.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.fork

PROGRAM = """
import os, signal, sys
from flowherd_supervisor.processes.run_in_child import run_in_child

parent = os.getpid()
def child(work):
    assert os.getpid() != parent
    return work

try:
    answer = run_in_child(lambda: {work}, meanwhile=lambda: print("meanwhile", os.getpid() == parent))
    print(len(answer))
finally:
    print("parent" if os.getpid() == parent else "child")
"""


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("child(b'x' * 200_000)", 0, ["meanwhile True", "200000", "parent"]),
        ("child(0)", 0, ["meanwhile True", "parent"]),
        ("child(2)", 2, ["meanwhile True", "parent"]),
        ("child(1 / 0)", 1, ["meanwhile True", "parent"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ["meanwhile True", "parent"]),
    ],
    ids=["bytes", "an exit code of 0", "an exit code", "an error", "killed"],
)
def test_this_process_gets_the_bytes_or_exits_as_the_other_one_did(
    work: str, code: int, said: list[str]
) -> None:
    """The bytes may be more than a pipe holds, and nothing of the other process goes on in this one's code."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (code, said), done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("/" in work)
