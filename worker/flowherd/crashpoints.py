"""Named points where tests can kill a worker or the keeper; without FLOWHERD_TEST_POINT they do nothing."""

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
    """Returns the function to call at each point, for an order `point:times:signal[:file]`.

    It sends the signal to its own process when that reaches the point for the n-th time (`times`). With a file only the
    first process does so, which creates the file; processes that replace it do not.

    Raises:
        ValueError: the point is unknown, or the order is malformed.

    """
    if not order:
        return id  # does nothing, at a third of the cost of a Python function
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
