"""The queues of attempts that wait for permits."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flowherd.execution.permit_queues import PermitQueues
from flowherd.ledger.permits import OwnPermits

if TYPE_CHECKING:
    from flowherd.worker.attempt import Attempt


class Waiting:
    """An attempt that may begin."""

    may_begin = True


def an_attempt() -> Attempt:
    return cast("Attempt", Waiting())


async def test_what_comes_while_the_last_of_a_queue_fails_to_begin_keeps_its_place() -> None:
    """No thread for it, and its slot goes to another of the same name, for which there is no permit."""
    queues, begun = PermitQueues(OwnPermits()), []
    first, second, third, fourth = (an_attempt() for _ in range(4))

    def fails() -> None:
        queues.leave(second)
        queues.enter(third, "name", 1, lambda: begun.append("third"))
        queues.enter(fourth, "name", 1, lambda: begun.append("fourth"))

    queues.enter(first, "name", 1, lambda: begun.append("first"))
    queues.enter(second, "name", 1, fails)
    queues.leave(first)
    queues.leave(third)
    assert begun == ["first", "third", "fourth"]
