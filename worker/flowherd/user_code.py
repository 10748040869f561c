"""Tells the user's frames from those of Python, libraries and flowherd, in tracebacks and in running threads."""

from __future__ import annotations

import sys
import sysconfig
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Frame = tuple[FrameType, int]
"""A frame of a traceback and its line."""

Place = tuple[str, int, str]
"""File, line and function."""

_PYTHONS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_LIBRARIES = ("/site-packages/", "/dist-packages/")
_OURS = str(Path(__file__).parent)
_SUPERVISORS = (
    "/flowherd_supervisor/"  # in an editable install it is beside no library and in no folder of ours
)


def is_users(file: str) -> bool:
    """True for a file that belongs to none of these."""
    if file.startswith(("<", _OURS, *_PYTHONS)) or _SUPERVISORS in file:
        return False
    return not any(one in file for one in _LIBRARIES)


def is_called(file: str) -> bool:
    """True for a file of the user or of a library, but not of flowherd or Python."""
    if any(one in file for one in _LIBRARIES):
        return not file.startswith(_OURS)
    return is_users(file)


def from_users(frames: list[Frame]) -> list[Frame]:
    """Returns the frames from the first user frame on, else from the first library frame on, else none."""
    for test in (is_users, is_called):
        for number, (frame, _) in enumerate(frames):
            if test(frame.f_code.co_filename):
                return frames[number:]
    return []


def place_of(frames: list[Frame]) -> str:
    """Returns `file:line in function` of the innermost user frame, else of the first frame; "" without frames."""
    if not frames:
        return ""
    frame, line = next((one for one in reversed(frames) if is_users(one[0].f_code.co_filename)), frames[0])
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"


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
