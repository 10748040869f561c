"""Solitude: an activity that may take its process down runs beside nothing, in whatever thread."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from flowherd.shared.bells import Bells
from flowherd.shared.solitude import Member, Solitude

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bells() -> Iterator[Bells]:
    bells = Bells(3)
    yield bells
    bells.close()


def rings(bells: Bells, number: int) -> bool:
    """Whether that worker was rung since the last look."""
    try:
        return bool(os.eventfd_read(bells.of(number)))
    except BlockingIOError:
        return False


def two(bells: Bells) -> tuple[Member, Member]:
    solitude = Solitude(bells)
    return solitude.member(0), solitude.member(1)


def test_a_suspect_waits_for_the_other_thread_and_nothing_begins_beside_it(bells: Bells) -> None:
    """Design (poison): the second death must name its culprit, so nothing else may die with it."""
    one, other = two(bells)
    assert other.begin()
    assert not one.begin_alone("suspect")
    assert other.holds_back
    assert not one.holds_back
    other.end()
    assert rings(bells, 0)
    assert one.begin_alone("suspect")
    assert not other.begin()
    one.end()
    assert rings(bells, 1)
    assert not other.holds_back
    assert other.begin()


def test_what_is_claimed_already_may_still_begin_before_the_suspect(bells: Bells) -> None:
    """It would lose an attempt with the suspect if it waited."""
    one, other = two(bells)
    assert other.begin()
    assert not one.begin_alone("suspect")
    assert other.begin()
    other.end()
    assert not one.begin_alone("suspect")
    other.end()
    assert one.begin_alone("suspect")


def test_two_suspects_in_two_threads_take_turns(bells: Bells) -> None:
    """Neither waits for the other for ever."""
    one, other = two(bells)
    assert one.begin_alone("first")
    assert not other.begin_alone("second")
    one.end()
    assert rings(bells, 1)
    assert other.begin_alone("second")


def test_a_suspect_that_is_lost_while_it_waits_lets_the_others_go_on(bells: Bells) -> None:
    """Its lease may go to somebody else."""
    one, other = two(bells)
    assert other.begin()
    assert not one.begin_alone("suspect")
    one.withdraw("suspect")
    assert rings(bells, 1)
    assert not other.holds_back


def test_to_withdraw_what_runs_alone_changes_nothing(bells: Bells) -> None:
    """A lost lease does not end a handler: it is alone until that has ended."""
    one, other = two(bells)
    assert one.begin_alone("suspect")
    one.withdraw("suspect")
    assert not other.begin()


def test_nothing_ever_runs_beside_a_suspect_whatever_threads_do(bells: Bells) -> None:
    """Real threads, so that a missing lock would show; each also comes to its end."""
    solitude, at_work, found = Solitude(bells), [0, 0, 0], []

    def live(number: int, rng: random.Random) -> None:
        member = solitude.member(number)
        for n in range(300):
            alone = rng.random() < 0.3
            if not (member.begin_alone(f"{number}-{n}") if alone else member.begin()):
                member.withdraw(f"{number}-{n}")
                continue
            at_work[number] += 1
            if alone and sum(at_work) != 1:
                found.append((number, n))
            at_work[number] -= 1
            member.end()

    seed = random.randrange(1 << 30)
    print("seed", seed)
    threads = [threading.Thread(target=live, args=(n, random.Random(seed + n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not found
