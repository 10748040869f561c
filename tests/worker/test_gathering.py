"""The code that workers run is copied to one place before the fork: the copies do the same, and lie on few pages."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.process.gathering import gather, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROBE = """
import gc, json
from flowherd.process.gathering import gather, watched
from flowherd.process.holes import fill_holes
text = "def f{0}(x):\\n    return [x + {0} for _ in range(3)] + [x - 1, x * 2, x // 3]\\n"
space = {}
for number in range(2000):
    exec(text.format(number), space)
hot = [space[f"f{number}"] for number in range(0, 2000, 20)]
cold = space["f1"].__code__
def pages():
    return len({id(function.__code__) >> 12 for function in hot})
with watched() as codes:
    before = [function(7) for function in hot]
scattered = pages()
fill_holes()
gathered = gather(codes)
print(json.dumps({
    "frozen": gc.get_freeze_count(), "gathered": gathered, "scattered": scattered, "pages": pages(),
    "same": before == [function(7) for function in hot],
    "cold": space["f1"].__code__ is cold,
}))
"""


def test_code_that_has_run_lies_side_by_side_afterwards_and_does_the_same() -> None:
    """A hundred functions among two thousand: each page that holds one of them is a page that each child copies."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["scattered"] > 60, "nothing to gather: the test shows nothing"
    assert told["pages"] < told["scattered"] / 2, told
    assert told["gathered"] >= 100
    assert told["frozen"] > 2000
    assert told["same"]
    assert told["cold"]


def adds(number: int) -> Any:
    """Makes a function, and runs code within its own."""
    seen = [one + number for one in range(3)]
    return lambda: (number, seen)


def idle() -> None:
    """Is never run."""


def test_a_function_stays_itself_and_those_that_it_makes_have_the_copied_code() -> None:
    """Whoever has kept a function keeps it; a copy that made functions of original code would be copied in vain."""
    with watched() as codes:
        adds(1)()
    function, code, unused = adds, adds.__code__, idle.__code__
    assert gather(codes) > 0
    assert function is adds
    assert adds.__code__ is not code
    assert adds.__code__ == code
    assert idle.__code__ is unused
    assert adds(2)() == (2, [2, 3, 4])
    made = adds(2).__code__
    assert id(made) not in codes
    assert made in adds.__code__.co_consts
    assert "Makes a function" in inspect.getsource(adds)


@contextmanager
def profiler(function: Any) -> Iterator[None]:
    """Somebody else's."""
    sys.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_profiler_of_somebody_elses_goes_on_undisturbed() -> None:
    """There is one for each thread; an app may have begun it as it was imported."""
    calls: list[str] = []
    with profiler(lambda frame, *_: calls.append(frame.f_code.co_name)):
        theirs = sys.getprofile()
        with watched() as codes:
            idle()
        kept = sys.getprofile() is theirs
    assert kept
    assert not codes
    assert "idle" in calls


def test_nobody_watches_afterwards_even_when_what_was_watched_has_failed() -> None:
    """A profiler that stays costs each call of each child a call."""
    with pytest.raises(ZeroDivisionError), watched():
        raise ZeroDivisionError
    assert sys.getprofile() is None
