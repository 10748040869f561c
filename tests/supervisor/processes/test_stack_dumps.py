"""The stacks of a process that a fatal signal has ended, as they are logged."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from flowherd_supervisor.processes.process_table import Handle
from flowherd_supervisor.processes.stack_dumps import ROOM, shortened, standing_at

if TYPE_CHECKING:
    from flowherd.link.link import Link

HANDLER = 'File "/srv/app/sample_app.py", line 79 in hangs'
OURS = 'File "/opt/venv/lib/flowherd/execution/on_loop.py", line 102 in _step'
ROOT = Path(__file__).resolve().parents[3]
FORKED_BY = (
    'File "/opt/venv/lib/flowherd_supervisor/processes/zygote.py", line 184 in _be_born',
    'File "/opt/venv/lib/flowherd_supervisor/shell/host_setup.py", line 77 in run',
    'File "/opt/venv/lib/flowherd_supervisor/cli/host_order.py", line 41 in carry_out',
    'File "/opt/venv/lib/flowherd/settings/command_exit.py", line 25 in exit_code_of',
    'File "/opt/venv/lib/flowherd_supervisor/cli/main.py", line 36 in _begin',
    'File "/opt/venv/lib/cyclopts/core.py", line 9 in __call__',
)


def text_of(*threads: tuple[str, ...]) -> str:
    blocks = []
    for number, frames in enumerate(threads):
        kind = "Current thread" if number == len(threads) - 1 else "Thread"
        blocks.append("\n  ".join([f"{kind} 0x{number:016x} (most recent call first):", *frames]))
    return (
        "Fatal Python error: Aborted\n\n"
        + "\n\n".join(blocks)
        + "\n\nExtension modules: a.b, c.d (total: 2)\n"
    )


@pytest.mark.parametrize("frame", [one for one in FORKED_BY if "/flowherd" in one])
def test_the_frames_of_these_tests_are_of_files_that_exist(frame: str) -> None:
    """A file that has been renamed would be taken for the user's."""
    path = frame.split('"')[1].removeprefix("/opt/venv/lib/")
    assert any((ROOT / top / path).is_file() for top in ("worker", "supervisor"))


def test_the_handlers_frames_are_shown_and_those_of_the_forking_process_are_not() -> None:
    lines = shortened(text_of((HANDLER, OURS, *FORKED_BY)))
    assert lines == ["Fatal Python error: Aborted", lines[1], HANDLER, OURS]
    assert lines[1].startswith("Current thread")


@pytest.mark.parametrize("depth", [10, 1_000])
@pytest.mark.parametrize("neighbours", [0, 1, 40])
def test_the_innermost_frames_of_the_main_thread_are_kept_however_much_there_is(
    depth: int, neighbours: int
) -> None:
    """They used to be cut first when the paths of an installation were long."""
    others = [('File "threading.py", line 324 in wait',) * 30] * neighbours
    lines = shortened(text_of(*others, (HANDLER, *[OURS.replace("lib", "a-longer-path")] * depth)))
    assert HANDLER in lines
    assert sum(map(len, lines[1:])) <= ROOM


def test_a_process_that_left_no_stacks_has_none() -> None:
    assert shortened("") == []
    assert shortened("Fatal Python error: Segmentation fault\n") == ["Fatal Python error: Segmentation fault"]


def test_where_a_long_import_stands_is_the_line_of_the_users_own_file() -> None:
    """In the main thread, which comes last; frames of libraries are skipped."""
    library = 'File "/opt/venv/lib/python3.13/site-packages/slow/db.py", line 5 in connect'
    imports = 'File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed'
    text = text_of(('File "/srv/app/other.py", line 1 in poll',), (library, HANDLER, imports, *FORKED_BY))
    assert standing_at(text) == "/srv/app/sample_app.py:79 hangs"
    assert standing_at("") == ""


def test_an_import_that_ends_in_time_leaves_no_stacks() -> None:
    """The stack taken shortly before the timeout is removed after Ready."""
    stacks = os.memfd_create("stacks")
    handle = Handle(0, 1, 1, -1, cast("Link", None), (), stacks)
    faulthandler.dump_traceback(stacks, all_threads=False)  # this thread need not be the main one
    assert handle.standing_at.endswith("test_an_import_that_ends_in_time_leaves_no_stacks")
    handle.forget_words()
    assert (handle.standing_at, handle.last_words()) == ("", [])
    faulthandler.dump_traceback(stacks, all_threads=False)
    assert handle.last_words()[0].endswith("(most recent call first):"), "it begins at the beginning"
    os.close(stacks)
