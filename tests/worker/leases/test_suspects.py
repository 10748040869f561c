"""Blame: the table of cases, and any sequence of deaths ends the killers and nobody else."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.leases.suspects import Death, Part, is_charged, is_given_up, is_suspect, part_of
from flowherd.ledger.crash_history import FEWEST_ENTRIES, CrashHistory, area_bytes
from flowherd.wait_status import NOT_OUT_OF_MEMORY, OURS, OUT_OF_MEMORY

POISON_AFTER = 3
EXIT_1 = 1 << 8
KILL, SEGV = int(signal.SIGKILL), int(signal.SIGSEGV)
ME, OTHER = 1, 2
ALL = frozenset({ME, OTHER})
ALONE = frozenset({ME})


def in_isolate(status: int, *, waited: bool) -> Death:
    return Death(status, ALONE, frozenset() if waited else ALONE, is_isolate=True)


@pytest.mark.parametrize(
    ("death", "before", "part"),
    [
        (Death(KILL, ALL, on_loop=ALONE), 0, Part.ON_LOOP),
        (Death(SEGV, ALL, in_threads=ALONE), 0, Part.IN_THREAD),
        (Death(SEGV, ALL, on_loop=ALL), 1, Part.ON_LOOP),
        (Death(SEGV, ALL, on_loop=ALL - ALONE), 0, Part.WAITED),
        (Death(KILL, ALL, in_threads=ALL - ALONE), 0, Part.WAITED),
        (Death(SEGV, ALL, on_loop=ALL - ALONE), 1, Part.AGAIN),
        (Death(KILL, ALL), 0, Part.WAITED),
        (Death(KILL | NOT_OUT_OF_MEMORY, ALL), 0, Part.WAITED),
        (Death(KILL, ALL), 1, Part.AGAIN),
        (Death(SEGV, ALL), 0, Part.UNSEEN),
        (Death(EXIT_1, ALL), 0, Part.UNSEEN),
        (Death(KILL | OURS, ALL), 0, Part.UNSEEN),
        (Death(KILL | OUT_OF_MEMORY, ALL), 0, Part.UNSEEN),
        (Death(KILL | OUT_OF_MEMORY, ALL, on_loop=ALL - ALONE), 0, Part.WAITED),
        (in_isolate(KILL, waited=True), 2, Part.HIT),
        (in_isolate(KILL, waited=False), 0, Part.ON_LOOP),
        (in_isolate(SEGV, waited=True), 0, Part.UNSEEN),
        (in_isolate(KILL | OUT_OF_MEMORY, waited=True), 0, Part.UNSEEN),
        (Death(SEGV, ALL - ALONE), 0, None),
    ],
)
def test_n31_each_case_of_the_table(death: Death, before: int, part: Part | None) -> None:
    assert part_of(death, ME, before) is part
    assert is_charged(part) is (part not in {None, Part.HIT})
    assert is_suspect(part) is (part not in {None, Part.HIT, Part.WAITED})


@pytest.mark.parametrize(
    ("death", "deaths", "poison_after", "is_over"),
    [
        (Death(KILL, ALONE, on_loop=ALONE), 3, 3, True),
        (Death(KILL, ALONE, on_loop=ALONE), 2, 3, False),
        (Death(KILL, ALONE, on_loop=ALONE), 9, 0, False),
        (Death(KILL, ALL, on_loop=ALONE), 3, 3, False),
        (Death(KILL, ALONE), 3, 3, False),
        (Death(SEGV, ALONE), 3, 3, True),
        (in_isolate(KILL, waited=True), 9, 3, False),
        (in_isolate(KILL, waited=False), 3, 3, True),
    ],
)
def test_c22_a_death_alone_proves_a_suspicion(
    death: Death, deaths: int, poison_after: int, *, is_over: bool
) -> None:
    assert is_given_up(death, part_of(death, ME, deaths - 1), deaths, poison_after) is is_over


@dataclass
class Herd:
    """Activities that begin again after each death, as usual or, as suspects, each in an isolate."""

    history: CrashHistory = field(
        default_factory=lambda: CrashHistory(memoryview(bytearray(area_bytes(FEWEST_ENTRIES))))
    )
    ended: set[str] = field(default_factory=set)
    own_deaths: dict[str, int] = field(default_factory=dict)
    sequence: int = 0

    def together(self, names: set[str]) -> set[str]:
        """Returns those of them that run beside others."""
        return {name for name in names - self.ended if not self.history.is_suspect(name)}

    def die(
        self,
        status: int,
        names: set[str],
        on_loop: set[str],
        in_threads: set[str],
        *,
        is_isolate: bool = False,
    ) -> None:
        numbers = {name: self.sequence + place for place, name in enumerate(sorted(names), 1)}
        self.sequence += len(names)
        at_work = frozenset(numbers.values())
        placed = [frozenset(numbers[name] for name in group & names) for group in (on_loop, in_threads)]
        death = Death(status, at_work, *placed, is_isolate=is_isolate)
        for name, sequence in numbers.items():
            part = part_of(death, sequence, self.history.charges(name).before(sequence))
            if not is_charged(part):
                continue
            charges = self.history.charge(name, "died", sequence, is_suspect=is_suspect(part))
            if is_given_up(death, part, charges.count, POISON_AFTER):
                self.ended.add(name)

    def kill(self, killer: str, beside: set[str], on_loop: set[str], in_threads: set[str]) -> None:
        """The killer ends its process, in the way of its name."""
        self.own_deaths[killer] = self.own_deaths.get(killer, 0) + 1
        status = SEGV if "crash" in killer else EXIT_1 if "exit" in killer else KILL
        if self.history.is_suspect(killer):
            is_seen = "loop" in killer or "thread" in killer or status == KILL  # `os.kill` is seen there
            self.die(status, {killer}, {killer} if is_seen else set(), set(), is_isolate=True)
            return
        names = self.together(beside) | {killer}
        on_loop = on_loop - {killer} | ({killer} if "loop" in killer else set())
        self.die(status, names, on_loop, in_threads | ({killer} if "thread" in killer else set()))

    def hit(self, names: set[str], victim: str, on_loop: set[str], in_threads: set[str]) -> None:
        """Somebody kills a process from outside: one with handlers that wait or compute, or an isolate that waits."""
        if self.history.is_suspect(victim):
            self.die(KILL, {victim} - self.ended, set(), set(), is_isolate=True)
        else:
            self.die(KILL, self.together(names), on_loop, in_threads)


KILLERS = (
    "kills on the loop", "crash on the loop", "kills in a thread", "a task that kills", "a task that will exit",
    "C code that will crash", "more C code that will crash",
)  # fmt: skip
INNOCENT = tuple(f"innocent {number}" for number in range(4))
SOME = st.sets(st.sampled_from(INNOCENT + KILLERS))
FEW = st.sets(st.sampled_from(INNOCENT), max_size=1)
EVENTS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(KILLERS), st.sampled_from(INNOCENT), SOME, FEW, FEW), max_size=60
)


@given(EVENTS)
def test_c22_any_sequence_of_deaths_ends_each_killer_within_six_and_nobody_else(
    events: list[tuple[bool, str, str, set[str], set[str], set[str]]],
) -> None:
    """Killers die in turn, beside innocents that wait or compute, and processes are killed from outside between."""
    herd = Herd()
    for is_own, killer, innocent, others, on_loop, in_threads in events:
        if is_own and killer not in herd.ended:
            herd.kill(killer, others, on_loop, in_threads)
        elif not is_own:
            herd.hit(others, innocent, on_loop, in_threads)
        assert herd.ended.isdisjoint(INNOCENT)
    for killer, deaths in herd.own_deaths.items():
        assert deaths <= 6
        assert (killer in herd.ended) or deaths < POISON_AFTER, (killer, deaths)


def test_n31_fifty_kills_of_processes_that_hold_sleepers_end_none() -> None:
    """Half of them hit an isolate in which one that has died twice with others waits."""
    herd, sleepers = Herd(), {f"sleeper {number}" for number in range(40)}
    for number in range(50):
        herd.hit(sleepers, f"sleeper {number % 4}", set(), set())
    assert not herd.ended
    assert all(herd.history.is_suspect(name) for name in sleepers)


def test_c22_two_that_die_in_turn_shield_neither() -> None:
    """Each has waited in the other's process; that is no excuse."""
    herd, killers = Herd(), ("C code that will crash", "more C code that will crash")
    for _ in range(2):
        for killer in killers:
            herd.kill(killer, set(killers), {"innocent 0"}, set())
    for killer in killers:
        herd.kill(killer, set(), set(), set())
    assert herd.ended == set(killers)
