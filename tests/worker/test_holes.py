"""Before the fork the holes between objects are filled, so that what a child makes is not strewn over shared pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_PROBE = """
import gc, json, sys
from flowherd.process.holes import fill_holes
makers = {16: object, 32: complex, 48: lambda: bytes(15), 64: lambda: bytes(31), 512: lambda: bytes(479)}
living = {size: [make() for _ in range(4000)] for size, make in makers.items()}
holes = {size: set(map(id, some[::2])) for size, some in living.items()}
for some in living.values():
    del some[::2]
made = fill_holes() if sys.argv[1] == "fill" else 0
frozen = gc.get_freeze_count()
new = {size: [make() for _ in range(500)] for size, make in makers.items()}
print(json.dumps({"made": made, "frozen": frozen, "in_holes": [
    sum(id(one) in holes[size] for one in some) for size, some in new.items()
]}))
"""


def told(word: str, **variables: str) -> dict[str, Any]:
    """What a program with many holes tells of its next objects."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, word],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **variables},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_new_objects_of_every_size_lie_beyond_the_holes_once_these_are_filled() -> None:
    """Each page that a child writes to is a copy: a hundred objects in a hundred pages cost 400 KB."""
    assert all(found > 250 for found in told("leave")["in_holes"]), "nothing to fill: the test shows nothing"
    filled = told("fill")
    assert all(found < 5 for found in filled["in_holes"]), filled  # what filling itself gave back
    assert filled["made"] > 5 * 2000 - 500
    assert filled["frozen"] > 0


def test_another_allocator_is_left_alone_after_a_few_megabytes() -> None:
    """PYTHONMALLOC, and interpreters without pools: there is no end of holes to be seen."""
    assert told("fill", PYTHONMALLOC="malloc")["made"] * 512 <= 4 << 20


_HEAP_PROBE = """
import ctypes, sys
from flowherd.process.holes import fill_holes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_size_t, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_size_t,)
sizes = (200, 700, 3000)
living = {size: [libc.malloc(size) for _ in range(300)] for size in sizes}
for some in living.values():
    for one in some[::2]:
        libc.free(one)
if sys.argv[1] == "fill":
    fill_holes()
new = {size: [libc.malloc(size) for _ in range(100)] for size in sizes}
print([sum(one < max(living[sizes[-1]]) for one in some) for some in new.values()])
"""


def test_what_the_c_library_hands_out_lies_beyond_the_holes_too() -> None:
    """Code, classes, the tables of dicts and the connections of a loop are none of Python's small objects."""

    def below(word: str) -> list[int]:
        words = [sys.executable, "-c", _HEAP_PROBE, word]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return list(json.loads(done.stdout))

    assert all(found > 90 for found in below("leave")), "nothing to fill: the test shows nothing"
    assert all(found < 10 for found in below("fill"))
