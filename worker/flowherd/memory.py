"""Releases pages of zeros."""

from __future__ import annotations

import ctypes
import resource

_PAGE = resource.getpagesize()
_ZEROS = bytes(_PAGE)
_MADV_DONTNEED = 4


def forget_zeros(holder: object, size: int) -> int:
    """Releases the first run of pages of a new object that hold only zeros; they would read as zeros again.

    Args:
        holder: an object that no other thread uses yet.
        size: its size in bytes.

    Returns:
        The number of bytes released.

    """
    first = -(-id(holder) // _PAGE) * _PAGE
    end = (id(holder) + size) // _PAGE * _PAGE
    while first < end and ctypes.string_at(first, _PAGE) != _ZEROS:
        first += _PAGE
    last = first
    while last < end and ctypes.string_at(last, _PAGE) == _ZEROS:
        last += _PAGE
    if last == first or _libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED):
        return 0
    return last - first


_libc = ctypes.CDLL(None)
