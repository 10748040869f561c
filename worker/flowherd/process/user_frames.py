"""Finds the user's frames in a stack: those of neither Python, a library nor flowherd."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from flowherd.user_code import is_users

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

Place = tuple[str, int, str]
"""File, line and function."""


def innermost(places: Iterable[Place], *, only_users: bool = False) -> str:
    """`file:line function` of the user's innermost frame; of the innermost that has a file where none is the user's.

    Args:
        places: the innermost first.
        only_users: whether "" is returned where none is.

    """
    of_others = ""
    for file, line, function in places:
        place = f"{file}:{line} {function}"
        if is_users(file):
            return place
        if not of_others and not file.startswith("<"):
            of_others = place
    return "" if only_users else of_others


def where_stands(ident: int | None, *, only_users: bool = False) -> str:
    """The user's innermost frame of a thread of this process, "" once it has ended.

    Args:
        ident: of the thread.
        only_users: whether a thread without any frame of the user's is "" too.

    """
    frame: FrameType | None = sys._current_frames().get(ident or 0)  # noqa: SLF001 - the documented way
    places: list[Place] = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return innermost(places, only_users=only_users)


def threads() -> dict[int, str]:
    """Python's threads by the kernel's number: the name, and the line of the user's that it is in."""
    found = {}
    for thread in threading.enumerate():
        stands = where_stands(thread.ident, only_users=True)
        found[thread.native_id or 0] = f"{thread.name}, in {stands}" if stands else thread.name
    return found


def where_main_stands() -> str:
    """The same of the main thread."""
    return where_stands(threading.main_thread().ident)
