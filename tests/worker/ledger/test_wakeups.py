"""The wakeups: one eventfd a segment, and one for the keeper."""

from __future__ import annotations

import os
import select

import pytest

from flowherd.ledger.wakeups import Wakeups


@pytest.fixture
def wakeups():
    wakeups = Wakeups(3)
    yield wakeups
    wakeups.close()


def rings(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_a_wakeup_reaches_only_its_receiver(wakeups: Wakeups) -> None:
    wakeups.wake(1)
    assert [rings(wakeups.of(number)) for number in range(3)] == [False, True, False]
    assert not rings(wakeups.keeper)
    wakeups.wake_keeper()
    assert rings(wakeups.keeper)


def test_many_wakeups_before_a_look_are_one(wakeups: Wakeups) -> None:
    for _ in range(5):
        wakeups.wake(0)
    wakeups.clear(wakeups.of(0))
    assert not rings(wakeups.of(0))


def test_hushing_a_silent_bell_does_not_wait(wakeups: Wakeups) -> None:
    wakeups.clear(wakeups.of(2))
    assert not rings(wakeups.of(2))


def test_a_full_bell_still_rings_and_never_blocks_the_ringer(wakeups: Wakeups) -> None:
    """The keeper rings from its beat loop: it must never wait for a worker that is stopped."""
    os.eventfd_write(wakeups.of(0), 2**64 - 2)
    wakeups.wake(0)
    assert rings(wakeups.of(0))


def test_programs_that_handlers_start_do_not_inherit_the_wakeups(wakeups: Wakeups) -> None:
    assert not any(os.get_inheritable(fd) for fd in wakeups.fds)


def test_a_forked_process_gets_the_same_wakeup(wakeups: Wakeups) -> None:
    pid = os.fork()
    if not pid:
        wakeups.wake(0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert rings(wakeups.of(0))
