"""The crash history: activities that ran in crashed processes, so that a second crash names its cause."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowherd.ledger import Ledger, records_needed
from flowherd.ledger.crash_history import (
    ABOUT_S,
    FEWEST_ENTRIES,
    FORGOTTEN_AFTER_S,
    CrashHistory,
    area_bytes,
)


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table(clock: Clock | None = None) -> CrashHistory:
    return CrashHistory(memoryview(bytearray(area_bytes(FEWEST_ENTRIES))), clock or Clock())


def test_deaths_add_up_and_are_named() -> None:
    """The message of a poison names each death."""
    crash_history = table()
    crash_history.charge("a", "process 0 was killed by SIGKILL", 1)
    charges = crash_history.charge("a", "process 1 was killed by SIGSEGV", 2)
    assert charges.count == 2
    assert charges.deaths == ("process 0 was killed by SIGKILL", "process 1 was killed by SIGSEGV")
    assert crash_history.charges("a") == charges
    assert crash_history.charges("b").count == 0


def test_deaths_that_are_long_in_bytes_leave_the_other_entries_alone() -> None:
    """Their texts quote names of activities; the oldest ones go where five do not fit."""
    crash_history = table()
    crash_history.charge("neighbour before", "died", 1)
    crash_history.charge("a", "died", 2)
    crash_history.charge("neighbour after", "died", 3)
    for sequence in range(4, 12):
        crash_history.charge("a", "обработать заказ " * 20, sequence)
        assert crash_history.charges("a").count == sequence - 2
    assert [crash_history.charges(f"neighbour {where}").count for where in ("before", "after")] == [1, 1]


def test_one_death_is_charged_once_however_often_its_settlement_is_tried() -> None:
    """A keeper that dies in the middle of a settlement is followed by another."""
    crash_history = table()
    crash_history.charge("a", "died", 7)
    assert crash_history.charge("a", "died", 7).count == 1


def test_a_neighbour_is_no_suspect_until_a_death_makes_it_one() -> None:
    """N31: it starts again as usual, nothing is asked for it, and no poll asks for less."""
    clock = Clock()
    crash_history = table(clock)
    crash_history.charge("a", "died", 1, is_suspect=False)
    assert (crash_history.any_suspects, crash_history.are_about) == (False, False)
    crash_history.charge("a", "died", 2)
    crash_history.charge("b", "died", 3, is_suspect=False)
    assert [crash_history.is_suspect(name) for name in "ab"] == [True, False]
    assert crash_history.charge("a", "died", 4, is_suspect=False).is_suspect, "it stays one"
    assert crash_history.are_about
    clock.now += ABOUT_S
    assert (crash_history.any_suspects, crash_history.are_about) == (True, False)


def test_a_suspect_is_forgotten_after_an_hour() -> None:
    """An activity that runs each day must not collect charges over months."""
    clock = Clock()
    crash_history = table(clock)
    crash_history.charge("a", "died", 1)
    clock.now += FORGOTTEN_AFTER_S + 1
    assert crash_history.charges("a").count == 0
    assert crash_history.charge("a", "died", 2).count == 1


def test_the_oldest_entry_makes_room() -> None:
    """256 suspects; the 257th pushes out the one that was charged longest ago."""
    clock = Clock()
    crash_history = table(clock)
    for number in range(FEWEST_ENTRIES + 1):
        clock.now += 1
        crash_history.charge(str(number), "died", number + 1)
    assert crash_history.charges("0").count == 0
    assert all(crash_history.charges(str(number)).count == 1 for number in range(1, FEWEST_ENTRIES + 1))


@pytest.mark.parametrize("concurrency", [1, 600, 5000])
def test_a_host_remembers_twice_as_many_suspects_as_it_runs(concurrency: int) -> None:
    """N13: two crashes of everything, one after the other, push out no entry."""
    crash_history = Ledger(processes=64, records=records_needed(concurrency, 10)).crash_history
    for number in range(2 * concurrency):
        crash_history.charge(f"a-{number}", "died", number + 1)
    assert all(crash_history.charges(f"a-{number}").count == 1 for number in range(2 * concurrency))
    assert crash_history.charges("another").count == 0


def test_all_processes_see_the_same_table() -> None:
    """It lives in the map that is shared by fork."""
    ledger = Ledger(processes=1, records=4)
    ledger.crash_history.charge("a", "died", 1)
    assert ledger.crash_history.charges("a").count == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_counts_match_a_dictionary(seed: int) -> None:
    """Up to the table's size nothing is lost or mixed up."""
    rng = random.Random(seed)
    crash_history, model = table(), {}
    names = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(40)]
    for sequence in range(1, 120):
        name = rng.choice(names)
        model[name] = model.get(name, 0) + 1
        crash_history.charge(name, "x" * rng.randint(0, 400), sequence)
    assert {name: crash_history.charges(name).count for name in model} == model
