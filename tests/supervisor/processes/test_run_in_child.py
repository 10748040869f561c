"""A function in a process of its own, and what follows if that one fails or cannot be forked.

Each test is a separate program, since pytest has threads.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.fork

PROGRAM = """
import os, signal, sys, threading, time
from flowherd_supervisor.processes.run_in_child import run_in_child

def no_process():
    raise BlockingIOError("no process")

parent = os.getpid()
{before}
answer = run_in_child(lambda: {work}, meanwhile=lambda: print("meanwhile"))
assert os.getpid() == parent
print(len(answer), answer[:6])
"""
WHERE = "b'here' if os.getpid() == parent else b'there'"


@pytest.mark.parametrize(
    ("before", "work", "said"),
    [
        ("", WHERE, ["meanwhile", "5 b'there'"]),
        ("", "b'x' * 200_000", ["meanwhile", "200000 b'xxxxxx'"]),
        ("", "1 / 0", ["meanwhile", "0 b''"]),
        ("", "os.kill(os.getpid(), signal.SIGKILL)", ["meanwhile", "0 b''"]),
        ("", "os.kill(os.getpid(), signal.SIGINT)", ["meanwhile", "0 b''"]),
        ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", WHERE, ["meanwhile", "5 b'there'"]),
        ("os.fork = no_process", WHERE, ["4 b'here'"]),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", WHERE, ["4 b'here'"]),
    ],
    ids=["bytes", "many bytes", "an error", "killed", "ctrl-c", "no SIGCHLD", "no process", "a thread"],
)
def test_the_bytes_come_back_whatever_becomes_of_the_process(before: str, work: str, said: list[str]) -> None:
    """More bytes than a pipe holds do too; nothing of the other process goes on in this one's code."""
    program = PROGRAM.format(before=before, work=work)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr
    assert ("ZeroDivisionError" in done.stderr) == ("/" in work)
    assert ("Traceback" in done.stderr) == ("/" in work)
