"""The user's frames among those of Python, of libraries and of flowherd."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from types import FrameType

Frame = tuple[FrameType, int]
"""A frame of a traceback and its line."""

_PYTHONS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_LIBRARIES = ("/site-packages/", "/dist-packages/")
_OURS = str(Path(__file__).parent)


def is_users(file: str) -> bool:
    """True for a file of none of them."""
    return not file.startswith(("<", _OURS, *_PYTHONS)) and not any(one in file for one in _LIBRARIES)


def is_called(file: str) -> bool:
    """True for a file of the user's or of a library: neither flowherd's nor Python's own."""
    if any(one in file for one in _LIBRARIES):
        return not file.startswith(_OURS)
    return is_users(file)


def from_users(frames: list[Frame]) -> list[Frame]:
    """The frames from the first one of the user's on; of a library's where none is the user's, else none."""
    for test in (is_users, is_called):
        for number, (frame, _) in enumerate(frames):
            if test(frame.f_code.co_filename):
                return frames[number:]
    return []


def place_of(frames: list[Frame]) -> str:
    """`file:line in function` of the user's innermost of `from_users`; of the first where none is; "" without any."""
    if not frames:
        return ""
    frame, line = next((one for one in reversed(frames) if is_users(one[0].f_code.co_filename)), frames[0])
    return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
