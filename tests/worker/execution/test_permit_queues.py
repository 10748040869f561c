"""The queues of attempts that wait for permits."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, cast

from hypothesis import given
from hypothesis import strategies as st

from flowherd.execution.permit_queues import PermitQueues
from flowherd.ledger.permits import Demand, NotNow, OwnPermits, Permit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd.worker.attempt import Attempt


ONE = Demand("name", range(1))


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
        queues.enter(third, "name", ONE, lambda: begun.append("third"))
        queues.enter(fourth, "name", ONE, lambda: begun.append("fourth"))

    queues.enter(first, "name", ONE, lambda: begun.append("first"))
    queues.enter(second, "name", ONE, fails)
    queues.leave(first)
    queues.leave(third)
    assert begun == ["first", "third", "fourth"]


class FewPermits(OwnPermits):
    """Permits of a host: what this process lacks another one may hold."""

    def __init__(self, taken: set[int]) -> None:
        super().__init__()
        self.taken = taken

    def take(self, pool: str, numbers: Sequence[int]) -> Permit | NotNow:
        return super().take(pool, [number for number in numbers if number not in self.taken])


async def test_activities_take_turns_so_that_many_of_one_do_not_keep_another_waiting() -> None:
    """A thousand of one activity have come before the first of another."""
    queues, begun = PermitQueues(OwnPermits()), []
    running = an_attempt()
    queues.enter(running, "many", ONE, lambda: begun.append("many 0"))
    many = [an_attempt() for _ in range(1000)]
    for number, one in enumerate(many, 1):
        queues.enter(one, "many", ONE, partial(begun.append, f"many {number}"))
    other = an_attempt()
    queues.enter(other, "few", ONE, lambda: begun.append("few"))
    queues.leave(running)
    queues.leave(many[0])
    assert begun[:3] == ["many 0", "many 1", "few"]


async def test_what_needs_a_whole_cpu_is_not_passed_by_what_needs_less() -> None:
    """It keeps the permits that it has got, until it has all."""
    permits, begun = FewPermits({1, 3}), []
    queues = PermitQueues(permits)
    queues.enter(an_attempt(), "heavy", Demand("cpus", range(0, 4, 4), 4), lambda: begun.append("heavy"))
    queues.enter(an_attempt(), "light", Demand("cpus", range(3, -1, -1)), lambda: begun.append("light"))
    permits.taken.discard(3)
    queues.proceed()
    assert not begun
    permits.taken.clear()
    queues.proceed()
    assert begun == ["heavy"]


async def test_what_is_cancelled_while_it_waits_gives_back_what_it_had_got() -> None:
    """Else the rest of its CPU would be nobody's."""
    permits, begun = FewPermits({2}), []
    queues = PermitQueues(permits)
    first = an_attempt()
    queues.enter(first, "heavy", Demand("cpus", range(0, 4, 4), 4), lambda: begun.append("first"))
    permits.taken.clear()
    first.may_begin = False
    queues.leave(first)
    queues.enter(an_attempt(), "heavy", Demand("cpus", range(0, 4, 4), 4), lambda: begun.append("second"))
    assert begun == ["second"]


@given(st.data())
def test_processes_that_share_cpus_never_wait_for_each_other_for_good(data: st.DataObject) -> None:
    """Whatever needs a quarter, a half or all of a CPU gets it, as long as what runs ends."""
    asyncio.run(_share_cpus(data))


async def _share_cpus(data: st.DataObject) -> None:
    cpus = data.draw(st.integers(1, 3))
    shared = OwnPermits()
    processes = [PermitQueues(shared) for _ in range(data.draw(st.integers(1, 3)))]
    running: list[tuple[PermitQueues, Attempt]] = []
    wanted = data.draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=20))
    begun = []
    for needed in wanted:
        queues, one = data.draw(st.sampled_from(processes)), an_attempt()
        starts = range(0, 4 * cpus, 4) if needed == 4 else range(4 * cpus - needed, -1, -needed)

        def begin(queues: PermitQueues = queues, one: Attempt = one) -> None:
            begun.append(one)
            running.append((queues, one))

        queues.enter(one, str(needed), Demand("cpus", starts, needed), begin)
    while running:
        queues, one = running.pop(data.draw(st.integers(0, len(running) - 1)))
        queues.leave(one)
        for other in processes:
            other.proceed()
    assert len(begun) == len(wanted)
