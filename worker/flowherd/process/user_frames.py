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
    """Returns `file:line function` of the innermost user frame, else of the innermost frame that has a file.

    Args:
        places: the frames, innermost first.
        only_users: True to return "" when there is no user frame.

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
    """Returns the innermost user frame of a thread of this process; "" when the thread has ended.

    Args:
        ident: the thread's identifier.
        only_users: True to return "" when there is no user frame.

    """
    frame: FrameType | None = sys._current_frames().get(ident or 0)  # noqa: SLF001 - documented
    places: list[Place] = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return innermost(places, only_users=only_users)


def threads() -> dict[int, str]:
    """Returns Python's threads by native id: the name, and the user's line that the thread is in."""
    found = {}
    for thread in threading.enumerate():
        stands = where_stands(thread.ident, only_users=True)
        found[thread.native_id or 0] = f"{thread.name}, in {stands}" if stands else thread.name
    return found


def where_main_stands() -> str:
    """Returns the innermost user frame of the main thread, like `where_stands`."""
    return where_stands(threading.main_thread().ident)
