"""Single decisions about starts, exits and polling: events in, actions out."""

from __future__ import annotations

from math import inf

import pytest
from brain import EXITED_3, SIGKILLED, STOP, Brain, boot_failed, exited, forked, leave, may_poll, ready

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import (
    Drain,
    Exit,
    FinishKeeper,
    Kill,
    Spawn,
    SwitchPolling,
)
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.restart_backoff import RestartPolicy
from flowherd_supervisor.core.state import Mode, Phase

# Boot


def test_the_first_process_boots_alone_and_the_others_follow_its_ready() -> None:
    """A bad app fails once, not N times."""
    brain = Brain(3)
    assert brain.hears(events.Started()) == [Spawn(KEEPER, 1, 0), Spawn(0, 1, 2)]
    assert brain.hears(forked(KEEPER), ready(KEEPER), forked(0)) == []
    assert brain.phases() == [Phase.STARTING, Phase.WAITING, Phase.WAITING]
    assert brain.hears(ready(0)) == [may_poll(0), Spawn(1, 1, 2), Spawn(2, 1, 1)]


def test_c18_a_boot_failure_before_any_ready_stops_everything_with_its_code_and_one_report() -> None:
    """Faults C18: the traceback once, no restart loop."""
    brain = Brain()
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(0))
    assert brain.hears(boot_failed(0)) == [Kill(0, 1)]
    assert brain.hears(exited(0, status=SIGKILLED)) == [FinishKeeper(1, pytest.approx(0.4))]
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(3)]
    assert [note.report for note in brain.notes if note.report] == ["Traceback"]


@pytest.mark.parametrize(("code", "left_with"), [(2, 2), (3, 3), (0, 3), (77, 3)])
def test_a_boot_failure_exits_with_2_or_3_whatever_code_the_child_sends(code: int, left_with: int) -> None:
    """Faults C23: a child cannot choose the supervisor's exit code."""
    brain = Brain()
    brain.hears(events.Started(), forked(KEEPER), forked(0), boot_failed(0, code=code), exited(0))
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(left_with)]


def test_every_log_line_about_an_exit_names_the_pid() -> None:
    """Without the pid the line cannot be matched with the system's log or the keeper's settlements."""
    brain = Brain().serve()
    brain.hears(exited(0, running=1), exited(KEEPER), events.LimitOverdue(1, 1, 7, "slow", "a-1", 5.0))
    brain.hears(STOP, exited(1))
    said = {note.event: note.fields.get("pid") for note in brain.notes}
    assert said["process_died"] == 1000
    assert said["keeper_died"] == 1000 + KEEPER
    assert said["process_hangs"] == said["process_exited"] == 1001


def test_n4_a_process_that_we_killed_is_logged_as_killed_with_the_reason() -> None:
    """N4: "out of memory?" sends people looking for memory."""
    brain = Brain().serve()
    brain.hears(events.KeeperLate(KEEPER, 1, 3.0), exited(KEEPER, status=SIGKILLED))
    brain.hears(events.LimitOverdue(1, 1, 7, "slow", "a-1", 5.0))
    brain.at(2.0)
    brain.hears(exited(1, status=SIGKILLED))
    said = {note.event: note.fields.get("killed_for") for note in brain.notes}
    assert said["keeper_died"] == "it was late with its heartbeats"
    assert said["process_died"] == "it hung"
    assert brain.hears(forked(1, 2), exited(1, 2, status=SIGKILLED), after=60.0) is not None
    assert brain.notes[-1].fields["killed_for"] == "", "the next one has not been killed by us"


def test_c20_a_boot_failure_after_a_ready_is_a_short_end() -> None:
    """Faults C20: the old processes go on working."""
    brain = Brain().serve()
    brain.hears(exited(1, running=1), after=60)
    assert brain.hears(forked(1, 2), boot_failed(1, 2)) == []
    assert brain.hears(exited(1, 2, status=EXITED_3)) == [Spawn(1, 3, 2)]
    assert brain.state.mode is Mode.SERVING
    assert brain.state.processes[1].short_in_row == 1


def test_an_exit_code_alone_is_no_boot_failure() -> None:
    """Faults C23: state comes from messages; `os._exit(3)` in user code has no meaning."""
    brain = Brain()
    brain.hears(events.Started(), forked(KEEPER), forked(0))
    assert brain.hears(exited(0, status=EXITED_3)) == [Spawn(0, 2, 3)]


def test_c19_a_first_boot_that_hangs_is_a_boot_failure() -> None:
    """Faults C19: from fork to Ready, 30 s."""
    brain = Brain(boot_timeout_s=30.0)
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER))
    assert brain.state.next_deadline == inf, "the zygote may take its time to fork"
    brain.hears(forked(0), after=50)
    assert brain.state.next_deadline == brain.now + 30
    assert brain.at(29.9) == []
    assert brain.at(0.1) == [Kill(0, 1)]
    assert brain.said("boot_timed_out") == 1
    brain.hears(exited(0, status=SIGKILLED))
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(3)]


def test_a_later_boot_that_hangs_is_killed_and_tried_again() -> None:
    """Only this process waits."""
    brain = Brain(boot_timeout_s=30.0).serve()
    brain.hears(exited(1, running=1), forked(1, 2), after=60)
    assert brain.at(30) == [Kill(1, 2)]
    assert brain.hears(exited(1, 2, status=SIGKILLED)) == [Spawn(1, 3, 2)]


def test_p12_a_failed_fork_is_tried_again_after_a_second() -> None:
    """Faults P12, P13: the others go on."""
    brain = Brain().serve()
    brain.hears(exited(0, running=1), after=60)
    assert brain.hears(events.SpawnFailed(0, 2, "EAGAIN")) == []
    assert brain.at(0.9) == []
    assert brain.at(0.1) == [Spawn(0, 3, 3)]


# Polling


def test_p7_quiet_reaches_running_workers_and_those_to_come() -> None:
    """Faults P7: TSTP and CONT."""
    brain = Brain().serve()
    off = events.PollingSwitched(on=False)
    assert brain.hears(off) == [SwitchPolling(0, 1, on=False), SwitchPolling(1, 1, on=False)]
    brain.hears(exited(1, running=1), after=60)
    assert brain.hears(forked(1, 2), ready(1, 2)) == [SwitchPolling(1, 2, on=False)]
    assert brain.hears(events.PollingSwitched(on=True)) == [may_poll(0), may_poll(1, 2)]


def test_a_worker_polls_after_its_ready_unless_it_was_told_to_end() -> None:
    """Law 5: a process that is killed while STARTING may have sent Ready, and must not have claimed anything."""
    brain = Brain()
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(0))
    assert may_poll(0) in brain.hears(ready(0))
    brain.hears(forked(1))
    assert brain.hears(STOP) == [Drain(0, 1, 30.0), Kill(1, 1)]
    assert brain.hears(ready(1)) == []


def test_cont_without_a_pause_changes_and_logs_nothing() -> None:
    """Service managers send CONT after each TERM."""
    brain = Brain().serve()
    assert brain.hears(events.PollingSwitched(on=True)) == []
    assert not brain.said("polling_resumed")


# The keeper


def test_a_keeper_restarts_at_once_also_during_a_drain() -> None:
    """Heartbeats and settlements must go on."""
    brain = Brain().serve()
    assert brain.hears(exited(KEEPER, 1)) == [Spawn(KEEPER, 2, 0)]
    brain.hears(STOP)
    assert brain.hears(forked(KEEPER, 2), exited(KEEPER, 2)) == [Spawn(KEEPER, 3, 0)]


def test_three_keeper_ends_in_ten_seconds_drain_and_exit_1() -> None:
    """After that it still restarts, since the drain needs its heartbeats."""
    brain = Brain().serve()
    brain.hears(exited(KEEPER, 1), forked(KEEPER, 2), exited(KEEPER, 2), forked(KEEPER, 3))
    assert brain.hears(exited(KEEPER, 3)) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0)]
    assert brain.at(1.0) == [Spawn(KEEPER, 4, 0)]
    brain.hears(forked(KEEPER, 4), exited(0, status=0), exited(1, status=0))
    assert brain.hears(exited(KEEPER, 4, status=0)) == [Exit(1)]


def test_keeper_ends_that_lie_further_apart_are_tolerated() -> None:
    """Three in ten seconds, not three."""
    brain = Brain().serve()
    for incarnation in range(1, 9):
        assert brain.hears(exited(KEEPER, incarnation), after=5.0) == [Spawn(KEEPER, incarnation + 1, 0)]
        brain.hears(forked(KEEPER, incarnation + 1))
    assert brain.state.mode is Mode.SERVING


def test_a_keeper_that_dies_in_its_last_minute_is_replaced_for_the_rest_of_it() -> None:
    """The records of ended workers are in the ledger, where the next keeper finds them."""
    brain = Brain().serve()
    brain.hears(STOP, exited(0), exited(1))
    assert brain.hears(exited(KEEPER, status=SIGKILLED), after=2.0) == [Spawn(KEEPER, 2, 0)]
    assert brain.hears(forked(KEEPER, 2)) == [FinishKeeper(2, pytest.approx(1.0))]
    assert brain.hears(exited(KEEPER, 2, status=0)) == [Exit(0)]


def test_without_a_keeper_one_is_made_to_settle() -> None:
    """Faults P12: its fork had failed just before the last worker ended."""
    brain = Brain().serve()
    brain.hears(STOP, exited(KEEPER), events.SpawnFailed(KEEPER, 2, "EAGAIN"), exited(0))
    assert brain.hears(exited(1)) == [Spawn(KEEPER, 3, 0)]
    assert brain.hears(events.SpawnFailed(KEEPER, 3, "EAGAIN")) == [Exit(6)]


def test_c21_a_crash_loop_drains_and_exits_5() -> None:
    """Faults C21: more than --max-restarts short ends over all processes in the window."""
    brain = Brain(restarts=RestartPolicy(max_restarts=2)).serve()
    brain.hears(exited(0), forked(0, 2), exited(1), forked(1, 2))
    assert brain.state.mode is Mode.SERVING
    assert brain.hears(exited(1, 2)) == [Kill(0, 2)]
    assert brain.said("crash_loop") == 1
    assert leave(brain) == 5


def test_short_ends_outside_the_window_are_forgotten() -> None:
    """Restart intensity and period."""
    brain = Brain(restarts=RestartPolicy(max_restarts=2, window_s=60.0)).serve()
    for incarnation in range(1, 9):
        brain.hears(exited(0, incarnation), after=30.0 if incarnation % 2 else 30.1)
        brain.at(40.0)
        brain.hears(forked(0, incarnation + 1))
    assert brain.state.mode is Mode.SERVING


def test_a_process_waits_longer_after_each_short_end_and_a_long_life_clears_it() -> None:
    """0, 0.5, 1 … 30 s; an incarnation that lives 2 s clears the wait."""
    brain = Brain(restarts=RestartPolicy(max_restarts=0)).serve()
    brain.hears(exited(0))
    assert brain.state.processes[0].phase is Phase.STARTING
    waits = []
    for incarnation in range(2, 5):
        brain.hears(forked(0, incarnation), exited(0, incarnation))
        waits.append(brain.state.processes[0].retry_at - brain.now)
        assert brain.at(waits[-1]) == [Spawn(0, incarnation + 1, 3)]
    assert waits == [pytest.approx(0.5, rel=0.2), pytest.approx(1.0, rel=0.2), pytest.approx(2.0, rel=0.2)]
    brain.hears(forked(0, 5), ready(0, 5))
    assert brain.hears(exited(0, 5), after=2.0) == [Spawn(0, 6, 3)]
    assert brain.state.processes[0].short_in_row == 0
