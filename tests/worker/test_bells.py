"""The bells: one eventfd a berth, and one for the keeper."""

from __future__ import annotations

import os
import select

import pytest

from flowherd.ledger.wakeups import Bells


@pytest.fixture
def bells():
    bells = Bells(3)
    yield bells
    bells.close()


def rings(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_a_ring_reaches_the_one_it_is_for_and_nobody_else(bells: Bells) -> None:
    bells.ring(1)
    assert [rings(bells.of(number)) for number in range(3)] == [False, True, False]
    assert not rings(bells.keeper)
    bells.ring_keeper()
    assert rings(bells.keeper)


def test_many_rings_before_somebody_looks_are_one(bells: Bells) -> None:
    for _ in range(5):
        bells.ring(0)
    bells.hush(bells.of(0))
    assert not rings(bells.of(0))


def test_hushing_a_silent_bell_does_not_wait(bells: Bells) -> None:
    bells.hush(bells.of(2))
    assert not rings(bells.of(2))


def test_a_full_bell_still_rings_and_never_blocks_the_ringer(bells: Bells) -> None:
    """The keeper rings from its beat loop: it must never wait for a worker that is stopped."""
    os.eventfd_write(bells.of(0), 2**64 - 2)
    bells.ring(0)
    assert rings(bells.of(0))


def test_programs_that_handlers_start_do_not_inherit_the_bells(bells: Bells) -> None:
    assert not any(os.get_inheritable(fd) for fd in bells.fds)


def test_a_forked_process_hears_the_same_bell(bells: Bells) -> None:
    pid = os.fork()
    if not pid:
        bells.ring(0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert rings(bells.of(0))
