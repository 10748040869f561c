"""Decisions about the zygote: events in, actions out; workers are forked from it and outlive it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from brain import EXITED_3, SIGKILLED, STOP, TWICE, Brain, boot_failed, exited, forked, may_poll, ready

from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Drain, Exit, FinishKeeper, Kill, Release, SetSlots, Spawn
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.plan import Plan, Preload
from flowherd_supervisor.core.state import FORK_WITHIN_S, Mode, Phase

THREAD = ("the thread pool-1",)


def zygoteed(processes: int = 2, preload: Preload = Preload.IF_SAFE, **plan: object) -> Brain:
    return Brain(processes, preload=preload, **plan)


def reload(brain: Brain, **changes: object) -> events.ReloadRequested:
    plan = brain.state.plan
    return events.ReloadRequested(
        Plan(processes=plan.processes, concurrency=plan.concurrency, preload=plan.preload, **changes)  # type: ignore[arg-type]
    )


# Birth


def test_keeper_and_zygote_come_first_and_all_workers_follow_the_zygotes_ready() -> None:
    """The zygote has imported the app, so a first worker alone is not needed."""
    brain = zygoteed(3)
    assert brain.hears(events.Started()) == [Spawn(KEEPER, 1, 0), Spawn(ZYGOTE, 1, 0)]
    assert brain.hears(forked(KEEPER), ready(KEEPER), forked(ZYGOTE)) == []
    assert brain.hears(ready(ZYGOTE)) == [
        Spawn(0, 1, 2, zygote=1),
        Spawn(1, 1, 2, zygote=1),
        Spawn(2, 1, 1, zygote=1),
    ]
    assert brain.said("preload_ready") == 1


@pytest.mark.parametrize(("code", "left_with"), [(2, 2), (3, 3), (77, 3)])
def test_c18_a_boot_failure_of_the_zygote_before_any_worker_is_ready_stops_everything(
    code: int, left_with: int
) -> None:
    """Faults C18: the same codes and the one traceback of an app that a worker could not import."""
    brain = zygoteed()
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE))
    assert brain.hears(boot_failed(ZYGOTE, code=code)) == [Kill(ZYGOTE, 1)]
    assert brain.hears(exited(ZYGOTE, status=code << 8)) == [FinishKeeper(1, pytest.approx(0.4))]
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(left_with)]
    assert [note.report for note in brain.notes if note.report] == ["Traceback"]


def test_c18_workers_that_all_fail_after_the_fork_leave_one_traceback() -> None:
    """A lifespan that raises does so in each of them at the same time."""
    brain = zygoteed()
    brain.hears(
        events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE), ready(ZYGOTE), forked(0), forked(1)
    )
    brain.hears(boot_failed(0), boot_failed(1))
    assert [note.report for note in brain.notes if note.report] == ["Traceback"]


def test_c19_a_zygote_that_hangs_at_its_first_import_is_a_boot_failure() -> None:
    """Faults C19: --boot-timeout also applies to the zygote."""
    brain = zygoteed(boot_timeout_s=30.0)
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE))
    assert brain.at(29.9) == []
    assert brain.at(0.1) == [Kill(ZYGOTE, 1)]
    brain.hears(exited(ZYGOTE, status=SIGKILLED))
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(3)]


def test_an_app_that_does_not_survive_a_fork_is_imported_by_each_process() -> None:
    """One warning, then as without a zygote, the first worker alone."""
    brain = zygoteed()
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE))
    assert brain.hears(ready(ZYGOTE, hazards=THREAD)) == [Kill(ZYGOTE, 1), Spawn(0, 1, 3)]
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == []
    assert brain.hears(forked(0), ready(0)) == [may_poll(0), Spawn(1, 1, 2)]
    (warning,) = [note for note in brain.notes if note.event == "preload_unsafe"]
    assert warning.fields["found"] == list(THREAD)
    assert "--preload" in warning.fields["remedy"]


def test_an_explicit_preload_forks_all_the_same_and_warns() -> None:
    """It overrides the check, not the warning."""
    brain = zygoteed(preload=Preload.ALWAYS)
    brain.hears(events.Started(), forked(ZYGOTE))
    assert len(brain.hears(ready(ZYGOTE, hazards=THREAD))) == 2
    assert brain.said("preload_unsafe") == 1


def test_without_preload_there_is_no_zygote() -> None:
    """--no-preload."""
    assert Brain(2).hears(events.Started()) == [Spawn(KEEPER, 1, 0), Spawn(0, 1, 3)]


# Work


def test_a_crashed_worker_is_forked_from_the_zygote() -> None:
    """Restarts need no import of the app."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(exited(1, running=1), after=60) == [Spawn(1, 2, 2, zygote=1)]


def test_a_process_more_is_forked_from_the_zygote() -> None:
    """TTIN."""
    brain = zygoteed().serve_from_zygote()
    orders = brain.hears(events.ScaleRequested(3))
    assert [order for order in orders if isinstance(order, Spawn)] == [Spawn(2, 1, 0, zygote=1)]


# Death


def test_when_the_zygote_dies_workers_are_not_touched_and_a_new_one_comes_at_once() -> None:
    """Only its open orders are lost with it."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [Spawn(ZYGOTE, 2, 0)]
    assert brain.phases() == [Phase.RUNNING, Phase.RUNNING]


def test_open_orders_of_a_dead_zygote_are_ordered_again() -> None:
    """With a new segment and incarnation, so that a late process cannot be mistaken for it."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(1, running=1), after=60)
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [Spawn(ZYGOTE, 2, 0)]
    assert brain.phases() == [Phase.RUNNING, Phase.WAITING]
    assert brain.hears(forked(ZYGOTE, 2), ready(ZYGOTE, 2)) == [Spawn(1, 3, 2, zygote=2)]


def test_a_worker_that_dies_while_there_is_no_zygote_waits_for_the_next() -> None:
    """Importing the app itself would not be faster, and would permanently cost more memory."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(ZYGOTE, status=SIGKILLED), exited(0, running=1), after=60)
    assert brain.phases() == [Phase.WAITING, Phase.RUNNING]
    assert brain.hears(forked(ZYGOTE, 2), ready(ZYGOTE, 2)) == [Spawn(0, 2, 3, zygote=2)]


def test_after_three_ends_in_ten_seconds_workers_import_the_app_themselves() -> None:
    """At once, after half a second, no more; one warning."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(1, running=1), after=60)
    brain.hears(exited(ZYGOTE, status=SIGKILLED), forked(ZYGOTE, 2))
    assert brain.hears(exited(ZYGOTE, 2, status=SIGKILLED)) == []
    assert brain.at(0.4) == []
    assert brain.at(0.1) == [Spawn(ZYGOTE, 3, 0)]
    assert brain.hears(forked(ZYGOTE, 3), exited(ZYGOTE, 3, status=SIGKILLED)) == [Spawn(1, 3, 2)]
    assert brain.said("preload_given_up") == 1
    brain.hears(forked(1, 3), ready(1, 3))
    assert brain.hears(exited(0, running=1), after=60) == [Spawn(0, 2, 3)]


def test_ends_that_lie_further_apart_are_tolerated() -> None:
    """Three in ten seconds, not three."""
    brain = zygoteed().serve_from_zygote()
    for incarnation in range(1, 9):
        assert brain.hears(exited(ZYGOTE, incarnation), after=11.0) == [Spawn(ZYGOTE, incarnation + 1, 0)]
        brain.hears(forked(ZYGOTE, incarnation + 1), ready(ZYGOTE, incarnation + 1))
    assert not brain.said("preload_given_up")


def test_a_zygote_that_does_not_fork_is_replaced() -> None:
    """It may be frozen, or blocked by the app's fork hooks; a fork takes milliseconds."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(1, running=1), after=60)
    assert brain.state.next_deadline == brain.now + FORK_WITHIN_S
    assert brain.at(FORK_WITHIN_S) == [Kill(ZYGOTE, 1)]
    assert brain.at(FORK_WITHIN_S) == [], "killed once"
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [Spawn(ZYGOTE, 2, 0)]


def test_three_zygotes_in_a_row_that_do_not_fork_are_enough() -> None:
    """However long each took to boot."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(1, running=1), after=60)
    for incarnation in (1, 2, 3):
        brain.at(FORK_WITHIN_S)
        orders = brain.hears(exited(ZYGOTE, incarnation, status=SIGKILLED), after=9)
        brain.hears(forked(ZYGOTE, incarnation + 1), ready(ZYGOTE, incarnation + 1), after=9)
    assert [order.zygote for order in orders if isinstance(order, Spawn) and order.index == 1] == [0]


def test_a_zygote_that_fails_to_come_back_says_why_and_is_tried_again() -> None:
    """The files may have changed under it; the workers go on."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(exited(ZYGOTE, status=SIGKILLED), forked(ZYGOTE, 2), boot_failed(ZYGOTE, 2))
    assert [note.event for note in brain.notes if note.report] == ["preload_failed"]
    brain.hears(exited(ZYGOTE, 2, status=EXITED_3))
    assert brain.at(0.5) == [Spawn(ZYGOTE, 3, 0)]
    assert brain.state.mode is Mode.SERVING


def test_p12_a_zygote_that_cannot_be_forked_is_tried_again_after_a_second() -> None:
    """Faults P12."""
    brain = zygoteed()
    brain.hears(events.Started(), events.SpawnFailed(ZYGOTE, 1, "EAGAIN"))
    assert brain.at(1.0) == [Spawn(ZYGOTE, 2, 0)]


# Reload


def test_p6_a_new_zygote_imports_the_new_version_before_workers_are_replaced() -> None:
    """Faults P6: its Ready begins the rolling restart; that of the first worker ends the old zygote."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(reload(brain)) == [Spawn(ZYGOTE, 2, 0)]
    assert brain.hears(forked(ZYGOTE, 2)) == []
    assert brain.hears(ready(ZYGOTE, 2)) == [Spawn(0, 2, 0, zygote=2)]
    brain.hears(exited(ZYGOTE, 1, status=SIGKILLED))
    orders = brain.hears(forked(0, 2), ready(0, 2))
    assert orders == [
        may_poll(0, 2),
        SetSlots(0, 1, 0, 1),
        Drain(0, 1, 30.0, others_go_on=True),
        Spawn(1, 2, 0, zygote=2),
    ]
    brain.hears(forked(1, 2), ready(1, 2))
    assert brain.said("reloaded") == 1


def test_c20_a_version_that_does_not_import_changes_nothing() -> None:
    """Faults C20: one line, one traceback; the old zygote goes on forking."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2))
    assert brain.hears(boot_failed(ZYGOTE, 2)) == [Kill(ZYGOTE, 2)]
    assert brain.hears(exited(ZYGOTE, 2, status=EXITED_3)) == []
    assert [note.event for note in brain.notes if note.report] == ["reload_failed"]
    assert brain.phases() == [Phase.RUNNING, Phase.RUNNING]
    assert brain.hears(exited(1, running=1), after=60) == [Spawn(1, 2, 2, zygote=1)]


def test_a_version_that_hangs_or_dies_while_it_is_imported_changes_nothing_either() -> None:
    """They send no BootFailed."""
    brain = zygoteed(boot_timeout_s=30.0).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2))
    assert brain.at(30.0) == [Kill(ZYGOTE, 2)]
    assert brain.hears(exited(ZYGOTE, 2, status=SIGKILLED)) == []
    assert brain.said("reload_failed") == 1
    brain.hears(reload(brain), forked(ZYGOTE, 3), exited(ZYGOTE, 3, status=11))
    assert brain.said("reload_failed") == 2
    assert brain.state.zygotes.ready is not None


def test_a_second_reload_replaces_the_zygote_that_was_coming() -> None:
    """It may have read half of the old files."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2))
    assert brain.hears(reload(brain)) == [Kill(ZYGOTE, 2), Spawn(ZYGOTE, 3, 0)]
    brain.hears(exited(ZYGOTE, 2, status=SIGKILLED), forked(ZYGOTE, 3))
    assert brain.hears(ready(ZYGOTE, 3)) == [Spawn(0, 2, 0, zygote=3)]


def test_a_new_version_that_is_unsafe_to_fork_replaces_workers_by_ones_that_import_it() -> None:
    """And a later safe version is forked from its zygote again."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2))
    assert brain.hears(ready(ZYGOTE, 2, THREAD)) == [Kill(ZYGOTE, 1), Kill(ZYGOTE, 2), Spawn(0, 2, 0)]
    brain.hears(exited(ZYGOTE, 1), exited(ZYGOTE, 2), forked(0, 2), ready(0, 2), forked(1, 2), ready(1, 2))
    assert brain.hears(reload(brain)) == [Spawn(ZYGOTE, 3, 0)]
    assert brain.hears(forked(ZYGOTE, 3), ready(ZYGOTE, 3)) == [Spawn(0, 3, 0, zygote=3)]


def test_a_zygote_that_dies_in_the_middle_of_a_reload_does_not_end_it() -> None:
    """The next one has the new version too."""
    brain = zygoteed().serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2), exited(ZYGOTE, 1))
    brain.hears(exited(ZYGOTE, 2, status=SIGKILLED), forked(ZYGOTE, 3))
    assert brain.phases() == [Phase.WAITING, Phase.RUNNING]
    assert brain.hears(ready(ZYGOTE, 3)) == [Spawn(0, 3, 0, zygote=3)]
    brain.hears(forked(0, 3), ready(0, 3), forked(1, 2), ready(1, 2))
    assert brain.said("reloaded") == 1


# Stop


def test_in_a_drain_the_zygote_stays_until_the_last_worker_has_ended() -> None:
    """What runs may still need an isolate."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(STOP) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0)]
    assert brain.hears(exited(0, status=0)) == []
    assert brain.hears(exited(1, status=0)) == [Kill(ZYGOTE, 1)]
    assert brain.hears(exited(ZYGOTE, status=SIGKILLED)) == [FinishKeeper(1, 3.0)]
    assert brain.hears(exited(KEEPER, status=0)) == [Exit(0)]


def test_a_release_ends_it_at_once() -> None:
    """Nothing is begun any more."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(TWICE) == [Kill(ZYGOTE, 1), Release(0, 1, 0.5), Release(1, 1, 0.5)]


def test_a_zygote_that_dies_during_a_drain_is_not_replaced() -> None:
    """It would take as long as the rest of the drain."""
    brain = zygoteed().serve_from_zygote()
    assert brain.hears(STOP, exited(ZYGOTE, status=SIGKILLED)) == [Drain(0, 1, 30.0), Drain(1, 1, 30.0)]
    brain.hears(exited(0, status=0))
    assert brain.hears(exited(1, status=0)) == [FinishKeeper(1, 3.0)]


def test_c20_a_version_whose_first_process_does_not_start_leaves_the_old_one_to_fork_from() -> None:
    """Such as a lifespan that raises. A process that dies later is replaced by the old version."""
    brain = zygoteed(2).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2))
    assert brain.hears(ready(ZYGOTE, 2)) == [Spawn(0, 2, 0, zygote=2)]
    brain.hears(forked(0, 2), boot_failed(0, 2))
    assert brain.hears(exited(0, 2, status=EXITED_3)) == [Kill(ZYGOTE, 2)]
    [failed] = [note for note in brain.notes if note.event == "reload_failed"]
    assert failed.fields["note"] == "the old version goes on"
    brain.hears(exited(ZYGOTE, 2, status=SIGKILLED))
    [spawned] = [order for order in brain.hears(exited(1, status=SIGKILLED)) if isinstance(order, Spawn)]
    assert (spawned.index, spawned.zygote) == (1, 1)
    brain.hears(reload(brain), forked(ZYGOTE, 3), ready(ZYGOTE, 3))
    assert Kill(ZYGOTE, 1) in brain.hears(forked(0, 3), ready(0, 3)), "the new version starts"


def test_c20_the_old_version_is_forked_again_though_its_process_died_while_the_successor_started() -> None:
    brain = zygoteed(2).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2), forked(0, 2))
    brain.hears(exited(0, status=SIGKILLED), boot_failed(0, 2))
    orders = brain.hears(exited(0, 2, status=EXITED_3))
    assert Kill(ZYGOTE, 2) in orders
    assert brain.said("reload_failed") == 1
    orders += brain.at(30.0)
    assert [order.zygote for order in orders if isinstance(order, Spawn)] == [1]


def test_c20_a_second_reload_that_fails_lets_the_first_one_go_on() -> None:
    """Otherwise both versions would stay."""
    brain = zygoteed(2).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2), forked(0, 2))
    brain.hears(reload(brain), forked(ZYGOTE, 3))
    assert Kill(ZYGOTE, 1) in brain.hears(ready(0, 2), exited(0, status=0))
    assert Spawn(1, 2, 0, zygote=2) in brain.hears(boot_failed(ZYGOTE, 3))
    brain.hears(forked(1, 2), ready(1, 2))
    assert (brain.said("reload_failed"), brain.said("reloaded")) == (1, 1)


def test_a_reload_of_a_host_whose_process_waits_to_start_again_ends_when_one_has_started() -> None:
    """It may be the crash that the new version mends."""
    brain = zygoteed(1).serve_from_zygote()
    brain.hears(exited(0, status=SIGKILLED), forked(0, 2), exited(0, 2, status=SIGKILLED))
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2))
    assert brain.said("reloaded") == 0
    [spawned] = [order for order in brain.at(30.0) if isinstance(order, Spawn)]
    assert spawned.zygote == 2
    brain.hears(forked(0, spawned.incarnation), ready(0, spawned.incarnation))
    assert brain.said("reloaded") == 1


def test_the_old_zygote_is_kept_through_a_second_reload_before_a_process_of_the_first_was_ready() -> None:
    brain = zygoteed(2).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2), forked(0, 2))
    brain.hears(reload(brain), forked(ZYGOTE, 3))
    assert Kill(ZYGOTE, 2) in brain.hears(ready(ZYGOTE, 3))
    kept = brain.state.zygotes.kept
    assert kept is not None
    assert kept.incarnation == 1


@pytest.mark.parametrize("wanted", [3, 5])
def test_a_scale_amid_a_reload_lets_it_go_on(wanted: int) -> None:
    """Otherwise some processes kept the old version for good, and nothing said so."""
    brain = zygoteed(4).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2))
    brain.hears(forked(0, 2), ready(0, 2), exited(0, status=0))
    brain.hears(events.ScaleRequested(wanted))
    for number in range(4, wanted):
        brain.hears(forked(number), ready(number))
    for number in range(1, min(wanted, 4)):
        assert brain.said("reloaded") == 0
        brain.hears(forked(number, 2), ready(number, 2), exited(number, status=0))
    assert brain.said("reloaded") == 1
    assert [process.incarnation for process in brain.state.processes[:4]] == [2] * min(wanted, 4)


def test_a_scale_that_takes_the_last_process_to_be_replaced_ends_the_reload() -> None:
    brain = zygoteed(2).serve_from_zygote()
    brain.hears(reload(brain), forked(ZYGOTE, 2), ready(ZYGOTE, 2))
    brain.hears(forked(0, 2), ready(0, 2), exited(0, status=0), forked(1, 2))
    assert brain.said("reloaded") == 0
    brain.hears(events.ScaleRequested(1))
    assert brain.said("reloaded") == 1


def test_a_reload_keeps_the_number_that_was_scaled_to_until_the_settings_have_another() -> None:
    """A manual scale overrides the file until the number in the file changes."""
    brain = Brain().serve()
    settings = brain.state.plan
    brain.hears(events.ScaleRequested(3), forked(2), ready(2))
    brain.hears(events.ReloadRequested(settings))
    assert (brain.state.plan.workers, brain.said("scale_kept")) == (3, 1)
    brain.hears(events.ReloadRequested(settings))
    assert (brain.state.plan.workers, brain.said("scale_kept")) == (3, 2)
    brain.hears(events.ReloadRequested(replace(settings, concurrency=2)))
    assert brain.state.plan.workers == 2, "each needs a slot"
    brain.hears(events.ReloadRequested(replace(settings, processes=4)))
    assert (brain.state.plan.workers, brain.said("scale_kept")) == (4, 2)


def test_a_reload_with_wrong_settings_is_logged_and_changes_nothing() -> None:
    brain = Brain().serve()
    before = brain.state
    assert brain.hears(events.ReloadRefused("no such setting")) == []
    assert brain.said("reload_refused") == 1
    assert brain.state == before
