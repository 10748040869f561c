"""The frame that a user wants to see of a stack."""

from __future__ import annotations

import json
import os
import threading

import pytest

from flowherd import errors
from flowherd.user_code import innermost, where_main_stands, where_stands

MINE = ("/srv/app/my_app.py", 7, "load")
FROZEN = ("<frozen importlib._bootstrap>", 241, "_call_with_frames_removed")
STDLIB = (os.__file__, 3, "walk")
OTHERS = (json.__file__.replace("json/__init__", "site-packages/slow/thing"), 5, "connect")
OURS = (errors.__file__, 1, "x")
SUPERVISORS = ("/src/supervisor/flowherd_supervisor/processes/zygote.py", 2, "serve")  # an editable install


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (
            [STDLIB, FROZEN, OTHERS, OURS, SUPERVISORS, MINE, ("/srv/app/other.py", 1, "<module>")],
            "/srv/app/my_app.py:7 load",
        ),
        ([FROZEN, STDLIB, OTHERS], f"{os.__file__}:3 walk"),
        ([FROZEN], ""),
        ([], ""),
    ],
)
def test_the_innermost_frame_of_the_user_is_found(places: list[tuple[str, int, str]], found: str) -> None:
    """Python, libraries and flowherd stand between it and what blocks; without one the innermost is shown."""
    assert innermost(places) == found


def test_a_thread_says_where_it_stands() -> None:
    """In the words of its own file, though it waits inside of threading."""
    may_end, began = threading.Event(), threading.Event()

    def waits_here() -> None:
        began.set()
        may_end.wait()

    thread = threading.Thread(target=waits_here)
    thread.start()
    began.wait()
    try:
        assert where_stands(thread.ident).endswith(" waits_here")
        assert __file__ in where_stands(thread.ident)
        assert "test_a_thread_says_where_it_stands" in where_main_stands()
    finally:
        may_end.set()
        thread.join()
    assert where_stands(thread.ident) == ""
