"""Which activities leave the loop: two runs that occupy it, anywhere on the host."""

from __future__ import annotations

import pytest
from brain import Brain, exited, forked, ready

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Note, TellMoved
from flowherd_supervisor.core.plan import Plan


def blocked(
    index: int, *, name: str = "heavy", seconds: float = 3.0, is_over: bool = True, share: float = 1.0
) -> events.LoopBlocked:
    return events.LoopBlocked(index, 1, name, "app.py:7", seconds, share, is_over)


def told(actions: list[object]) -> list[TellMoved]:
    return [one for one in actions if isinstance(one, TellMoved)]


def noted(brain: Brain, event: str) -> list[Note]:
    return [one for one in brain.notes if one.event == event]


def test_the_second_run_moves_it_and_every_process_is_told() -> None:
    """One run may be a first one that fills a cache."""
    brain = Brain().serve()
    assert not told(brain.hears(blocked(0)))
    actions = brain.hears(blocked(1, share=0.5))
    assert told(actions) == [TellMoved(0, 1, {"heavy": 1.0}), TellMoved(1, 1, {"heavy": 1.0})]
    [note] = noted(brain, "activity_moved")
    assert (note.fields["name"], note.fields["place"], note.fields["blocked_s"]) == ("heavy", "app.py:7", 3.0)
    assert brain.state.moves == {"heavy": 1}
    assert not told(brain.hears(blocked(0))), "it is moved already"


def test_a_run_that_is_told_twice_counts_once() -> None:
    """While it lasts, so that no third one begins on a loop, and at its end."""
    brain = Brain().serve()
    brain.hears(blocked(0, is_over=False, seconds=0.1))
    assert not told(brain.hears(blocked(0)))
    assert told(brain.hears(blocked(0, is_over=False, seconds=0.1))), "its second run"


def test_a_move_is_announced_when_no_loop_is_blocked_by_it_any_more() -> None:
    """From that line on, light work is fast."""
    brain = Brain().serve()
    brain.hears(blocked(0, is_over=False, seconds=0.1))
    actions = brain.hears(blocked(1, is_over=False, seconds=0.1))
    assert told(actions)
    assert not noted(brain, "activity_moved")
    brain.hears(blocked(0))
    assert not noted(brain, "activity_moved")
    brain.hears(blocked(1, seconds=4.0))
    [note] = noted(brain, "activity_moved")
    assert note.fields["blocked_s"] == 4.0


def test_a_process_that_dies_while_it_is_blocked_does_not_hold_the_announcement_back() -> None:
    brain = Brain().serve()
    brain.hears(blocked(0, is_over=False, seconds=0.1), blocked(1))
    assert not brain.said("activity_moved")
    brain.hears(exited(0))
    assert brain.said("activity_moved") == 1


def test_a_process_that_starts_later_knows_what_the_host_has_learned() -> None:
    brain = Brain().serve()
    brain.hears(blocked(0), blocked(1), exited(0))
    brain.at(2.0)
    assert told(brain.hears(forked(0, 2), ready(0, 2))) == [TellMoved(0, 2, {"heavy": 1.0})]


def test_a_reload_forgets_it_also_for_what_still_runs_of_the_old_version() -> None:
    """The new version may not block any more, and the old one goes on where the new one does not start."""
    brain = Brain().serve()
    brain.hears(blocked(0), blocked(1))
    actions = brain.hears(events.ReloadRequested(brain.state.plan))
    assert {one.moved == {} for one in told(actions)} == {True}
    assert brain.state.blockers == {}
    assert brain.state.moves == {"heavy": 1}, "a counter never decreases"


def test_an_order_brings_it_back_and_keeps_it_until_a_reload() -> None:
    brain = Brain().serve()
    brain.hears(blocked(0), blocked(1))
    actions = brain.hears(events.KeepRequested("heavy"))
    assert told(actions) == [TellMoved(0, 1, {}, ("heavy",)), TellMoved(1, 1, {}, ("heavy",))]
    assert not told(brain.hears(blocked(0), blocked(1))), "the user has decided"
    assert not brain.hears(events.KeepRequested("heavy"))
    brain.hears(events.ReloadRequested(brain.state.plan))
    assert brain.state.kept == frozenset()


def test_what_gets_no_isolate_goes_back_and_that_is_said() -> None:
    """Work must not fail for a move that nobody asked for."""
    brain = Brain().serve()
    brain.hears(blocked(0), blocked(1))
    brain.hears(events.MoveFailed(0, 1, "heavy", "no memory"))
    [note] = noted(brain, "activity_kept")
    assert note.fields["reason"] == "no memory"
    assert brain.state.kept == {"heavy"}


@pytest.mark.parametrize(
    ("processes", "offload", "moves"),
    [(2, None, True), (1, None, False), (1, True, True), (2, False, False)],
)
def test_only_with_two_processes_or_an_order_of_the_user_does_anything_move(
    processes: int, *, offload: bool | None, moves: bool
) -> None:
    """A program that was written for one process keeps its globals."""
    assert Plan(processes=processes, concurrency=16, offload=offload).moves_blockers is moves
    brain = Brain(processes, offload=offload).serve()
    assert bool(told(brain.hears(blocked(0), blocked(0)))) is moves


def test_reports_of_an_ended_process_count_for_nothing() -> None:
    brain = Brain().serve()
    brain.hears(exited(1), blocked(1), blocked(1))
    assert brain.state.blockers == {}
