"""Memory of a process: it is read from the kernel, and pages of zeros are returned to it."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from flowherd.event_loop import forget_zeros
from flowherd.procfs import resident_bytes, stat_fields

_OWN_LOOP = """
import sys
from flowherd.event_loop import new_loop
from flowherd.procfs import resident_bytes
import uvloop
make = new_loop("uvloop") if sys.argv[1] == "ours" else uvloop.new_event_loop
first = make()
before = resident_bytes()
loop = make()
print(resident_bytes() - before)
loop.run_until_complete(__import__("asyncio").sleep(0))
"""


def test_resident_memory_is_the_kernels_number_and_none_of_a_process_that_has_ended() -> None:
    """It becomes the size at which a process is replaced."""
    assert 1 << 20 < resident_bytes() == pytest.approx(resident_bytes(os.getpid()), rel=0.1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert resident_bytes(ended.pid) == 0
    assert stat_fields(ended.pid) == []


def test_an_object_whose_zeros_were_given_back_is_the_same_as_before() -> None:
    """Only whole pages that hold nothing else; the object's own head and what follows its zeros stay."""
    zeros = 64 * mmap.PAGESIZE
    content = b"head" * 3000 + b"\0" * zeros + b"tail" * 3000
    holder = bytes(bytearray(content))
    given_back = forget_zeros(holder, sys.getsizeof(holder))
    assert zeros - 2 * mmap.PAGESIZE < given_back <= zeros
    assert holder == content
    assert forget_zeros(b"nothing to give", 48) == 0


def test_a_loop_of_ours_has_no_memory_for_the_buffer_that_it_may_never_use() -> None:
    """uvloop clears a buffer of 250 KB in each loop; a process has one or two."""
    pytest.importorskip("uvloop")

    def grown(whose: str) -> int:
        words = [sys.executable, "-c", _OWN_LOOP, whose]
        return int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert grown("ours") < grown("theirs") - 100_000
