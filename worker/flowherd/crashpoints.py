"""Named places where a test may have a worker or the keeper die; without FLOWHERD_TEST_POINT nothing happens there."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ADOPTER_POINTS",
    "ADOPTION_POINTS",
    "ISOLATE_POINTS",
    "KEEPER_POINTS",
    "POINTS",
    "VARIABLE",
    "bind",
    "reached",
]

VARIABLE = "FLOWHERD_TEST_POINT"
POINTS = ("before_poll", "after_poll", "after_claim", "after_handler", "before_report", "after_report")
ISOLATE_POINTS = (
    "before_isolated",
    "before_begin",
    "after_begin",
)  # of a worker that hands an activity to an isolate
KEEPER_POINTS = ("before_verdict", "before_count")
ADOPTER_POINTS = ("before_adopting", "after_adopting", "after_good", "after_gone")
ADOPTION_POINTS = ("after_offer", "after_decision", "after_answer", "after_adoption")  # of the keeper


def bind(order: str) -> Callable[[str], object]:
    """Returns what a point does under an order `point:times:signal[:file]`.

    The signal strikes the process when it comes to that point for the given time. With a file only the first
    process strikes, which makes the file: processes that replace it pass.

    Raises:
        ValueError: there is no such point, or the order cannot be read.

    """
    if not order:
        return id  # which does nothing either, and costs a third of a function of ours
    point, times, number, *files = order.split(":", 3)
    known = POINTS + ISOLATE_POINTS + KEEPER_POINTS + ADOPTION_POINTS + ADOPTER_POINTS
    if point not in known:
        raise ValueError(f"{VARIABLE} names {point!r}; there are {', '.join(known)}")
    left, struck_by = int(times), signal.Signals[number]

    def strike(here: str) -> None:
        nonlocal left
        if here != point:
            return
        left -= 1
        if left == 0 and (not files or _is_first(files[0])):
            os.kill(os.getpid(), struck_by)

    return strike


def _is_first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


reached = bind(os.environ.get(VARIABLE, ""))
