"""Fills what is free between the objects that live before a fork, so that a child's own lie together; it frees nothing.

Python keeps small objects of one size in pools of four pages, and puts a new one wherever a pool has a hole; so does
the C library with all else. After the imports there are thousands of holes, and a child would copy a page for nearly
each of its first objects.
"""

from __future__ import annotations

import ctypes
import gc
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP, _LARGEST = 16, 512  # bytes: the sizes that have pools
_POOL, _POOL_HEAD = 16 << 10, 48
_BATCH = 64
_MOST = 4 << 20  # bytes of one size, where the holes are many
_EMPTY_BYTES = 33
_HEAP_SIZES = (
    *(1 << power for power in range(16, 12, -1)),
    *range(4088, _STEP, -_STEP),
)  # bytes, as glibc cuts them

_kept: list[list[object]] = []


def fill_holes() -> int:
    """Makes objects of each size until they come from a fresh pool; they live as long as the process, frozen.

    Returns:
        How many it has made; after those of the first size it ends where another allocator is at work.

    """
    _fill_heap()
    gc.collect()  # also gives up what Python keeps for its next lists, tuples and floats, wherever that lies
    before = sum(map(len, _kept))
    for size in range(_LARGEST, 0, -_STEP):
        made: list[object] = []
        _kept.append(made)
        if not _fill(size, made) and size == _LARGEST:
            break
    gc.freeze()
    return sum(map(len, _kept)) - before


def _fill(size: int, made: list[object]) -> bool:
    """Whether there was an end to the holes of one size."""
    make = _maker(size)
    while len(made) * size < _MOST:
        some = [make() for _ in range(_BATCH)]
        made += some
        places = [id(one) for one in some]
        fresh = [one for one, other in pairwise(places) if one % _POOL == _POOL_HEAD and other == one + size]
        if fresh:  # what lies in the last one but its first object, which holds its page, is for the children
            del some, made[places.index(fresh[-1]) + 1 - _BATCH :]
            return True
    return False


def _fill_heap() -> None:
    """Takes what the C library has free below the end of its heap, from large to small; no byte of it is touched."""
    left, end = _MOST, _take(_HEAP_SIZES[0])
    for size in _HEAP_SIZES:
        while left > 0:
            left -= size
            if (taken := _take(size)) > end:
                end = taken
                break


def _maker(size: int) -> Callable[[], object]:
    """Makes plain objects of so many bytes, which no collection of garbage looks at."""
    match size:
        case 16:
            return object
        case 32:
            return complex
        case _:
            return lambda: bytes(size - _EMPTY_BYTES)


_take = ctypes.CDLL(None).malloc
_take.restype, _take.argtypes = ctypes.c_size_t, (ctypes.c_size_t,)
