"""Orders to a process, split over its workers that are threads."""

from __future__ import annotations

import warnings
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flowherd.free_threading import gil_watched
from flowherd.link.messages import Downward, Drain, IsolateEnded, IsolateStarted, Quiet, SetSlots
from flowherd.link.split_over_threads import MOST_WORKERS, keys_of, orders_of, spread, whose_key


@given(st.integers(0, 10_000), st.integers(1, MOST_WORKERS))
def test_shares_are_even_and_nothing_is_lost(total: int, parts: int) -> None:
    """faults.md P18; while slots move between processes there may be fewer than workers."""
    shares = spread(total, parts)
    assert sum(shares) == total
    assert len(shares) == parts
    assert max(shares) - min(shares) <= 1


@given(st.integers(0, MOST_WORKERS - 1))
def test_two_workers_isolates_never_answer_for_each_other(worker: int) -> None:
    """Each worker numbers its own from 1, since 0 stands for a worker in a Fork."""
    keys = list(islice(keys_of(worker), 100))
    assert [whose_key(key) for key in keys] == [(worker, number) for number in range(1, 101)]
    assert min(keys) > 0


@pytest.mark.parametrize(
    ("order", "parts"),
    [
        (SetSlots(5, 3), [(0, SetSlots(3, 3)), (1, SetSlots(2, 3))]),
        (SetSlots(0, 4), [(0, SetSlots(0, 4)), (1, SetSlots(0, 4))]),
        (IsolateStarted(7 * MOST_WORKERS + 1, 4711), [(1, IsolateStarted(7 * MOST_WORKERS + 1, 4711))]),
        (IsolateEnded(7 * MOST_WORKERS, 9, "gone"), [(0, IsolateEnded(7 * MOST_WORKERS, 9, "gone"))]),
        (Drain(30.0), [(0, Drain(30.0)), (1, Drain(30.0))]),
        (Quiet(), [(0, Quiet()), (1, Quiet())]),
    ],
)
def test_slots_are_split_replies_go_to_their_worker_and_the_rest_to_all(
    order: Downward, parts: list[tuple[int, Downward]]
) -> None:
    """One link for all threads."""
    assert list(orders_of(order, 2)) == parts


class Interpreter:
    """One whose GIL an import turns on."""

    def __init__(self) -> None:
        self.enabled = False

    def load(self, module: str) -> None:
        self.enabled = True
        text = f"The global interpreter lock (GIL) has been enabled to load module '{module}', which has not declared"
        warnings.warn(text, RuntimeWarning, stacklevel=1)


def test_a_module_that_turns_the_gil_on_is_named_in_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Its users would see threads that gain nothing, and no reason."""
    python = Interpreter()
    with warnings.catch_warnings(), capture_logs() as logs:
        warnings.simplefilter("always")
        warnings.showwarning = _shown
        with gil_watched(lambda: python.enabled):
            python.load("slowpack._core")
            warnings.warn("another matter", UserWarning, stacklevel=1)
    assert [(line["event"], line["module"]) for line in logs] == [("gil_enabled", "slowpack._core")]
    assert capsys.readouterr().out.split("\n")[0] == "another matter"


def _shown(message: Warning | str, *_: object) -> None:
    print(message)


def test_where_the_gil_was_on_before_nothing_is_said() -> None:
    with capture_logs() as logs, gil_watched(lambda: True):
        pass
    assert logs == []
