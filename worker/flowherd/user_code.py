"""Tells the user's frames from those of Python, libraries and flowherd."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import FrameType

Frame = tuple[FrameType, int]
"""A frame of a traceback and its line."""

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
