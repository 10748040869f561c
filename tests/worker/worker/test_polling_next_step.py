"""The pause after a receipt: what is learned of one activity, and what comes of it beside two kinds of engine."""

from __future__ import annotations

import statistics

import pytest
from polling_kit import Item, SimHost
from scheduling_engine import SchedulingEngine, asked

from flowherd.worker.polling.rule import SOON_S, STEP_MAX_S, NextStep


def after_the_first(step: NextStep) -> NextStep:
    """A workflow is at work with its first activity, and the host is not new any more."""
    step.take(SOON_S, 0.0)
    step.found(["wf"], -1.0, -1.0)
    return step


def learned(*delays_s: float, retry: float = 1.7) -> NextStep:
    """Chains of which each next activity is ready so long after a receipt; asked for after the pause, then again."""
    step, now = after_the_first(NextStep()), 1.0
    for delay_s in delays_s:
        step.acknowledged("wf", now)
        asked_s, drained_s = step.pause_s, -1.0
        while asked_s < delay_s:
            asked_s, drained_s = asked_s * retry, asked_s
        step.found(["wf"], now + asked_s, now + drained_s)
        now += 1000.0
    return step


# One activity


def test_the_pause_grows_to_a_late_activity_and_shrinks_after_one_that_was_ready() -> None:
    """Late: the middle between the poll that found nothing and the one that found it."""
    late_s = SOON_S * (1 + 1.7) / 2
    assert learned(0.003).pause_s == pytest.approx(late_s)
    assert learned(0.003, 0.001).pause_s == pytest.approx(late_s * 23 / 24)


def test_the_pause_is_never_shorter_than_an_engine_needs_that_schedules_at_once() -> None:
    assert learned(*[0.0005] * 10).pause_s == SOON_S


@pytest.mark.parametrize("engine_s", [0.02, 0.05, 0.1, 0.15, 0.2])
def test_the_pause_is_soon_that_of_an_engine_that_always_takes_as_long_and_stays_there(
    engine_s: float,
) -> None:
    for steps in range(100, 140):
        assert learned(*[engine_s] * steps, retry=1.125).pause_s == pytest.approx(engine_s, abs=0.02)


def test_the_pause_follows_within_fifty_steps_when_the_engine_becomes_quick() -> None:
    assert learned(*[0.15] * 100, *[0.02] * 50, retry=1.125).pause_s <= 0.04


def test_the_pause_grows_to_the_longest_one_and_no_further() -> None:
    assert learned(*[1.5] * 50).pause_s <= STEP_MAX_S
    assert learned(*[0.99] * 50, retry=1.05).pause_s >= 0.95 * STEP_MAX_S


def test_nothing_is_learned_where_nobody_could_ask_before() -> None:
    """Without a free slot for a while, an activity that was ready at once is found late."""
    step = after_the_first(NextStep())
    step.acknowledged("wf", 100.0)
    step.found(["wf"], 100.9, emptied_at=99.0)
    assert step.pause_s == SOON_S


def test_nothing_is_learned_where_other_work_lay_between() -> None:
    """A retry, a signal, an activity of another worker type."""
    step = after_the_first(NextStep())
    step.acknowledged("wf", 100.0)
    step.found(["wf"], 105.0, emptied_at=104.9)
    assert step.pause_s == SOON_S


def test_an_activity_of_a_workflow_that_is_new_here_says_nothing() -> None:
    """Else each arrival of a stream would be taken for a late step."""
    step = after_the_first(NextStep())
    step.acknowledged("wf", 100.0)
    step.found(["another"], 100.5, emptied_at=100.4)
    assert step.pause_s == SOON_S


def test_what_is_remembered_of_workflows_that_do_not_go_on_is_bounded() -> None:
    step = NextStep()
    for number in range(10_000):
        step.found([f"wf-{number}"], float(number), 0.0)
        step.acknowledged(f"wf-{number}", number + 0.5)
    assert "256 workflows" in repr(step)


def test_nothing_is_learned_of_activities_beside_each_other() -> None:
    """The second batch of a fan was ready before the first one had ended."""
    step = NextStep()
    step.take(0.05, 0.0)
    step.found(["wf", "wf", "wf"], 100.0, 99.0)
    step.acknowledged("wf", 100.01)
    step.found(["wf", "wf"], 100.02, emptied_at=99.0)
    assert step.pause_s == 0.05
    step.found(["late"], 100.0, 99.0)
    step.found(["late"], 100.02, 99.0)
    step.acknowledged("late", 100.03)
    step.found(["late"], 100.04, 99.0)
    assert step.pause_s == 0.05


def test_a_new_host_comes_to_the_pause_of_a_slow_engine_in_a_few_steps() -> None:
    step, now = NextStep(), 1.0
    for _ in range(6):
        step.found(["wf"], now, now - 0.01)
        step.acknowledged("wf", now)
        now += 0.08
    assert step.pause_s >= 0.03


def test_a_process_goes_on_from_what_a_sibling_has_learned() -> None:
    """A workflow whose steps alternate between two processes teaches neither of them alone."""
    step = NextStep()
    step.take(0.04, 5.0)
    assert (step.pause_s, step.learned_at) == (0.04, 5.0)
    step.take(7.0, 6.0)
    assert step.pause_s == pytest.approx(STEP_MAX_S), "whatever stands there"


# A host


@pytest.mark.parametrize("children", [1, 2])
@pytest.mark.parametrize(
    ("steps", "at_once", "most_polls", "most_empty"),
    [((1,) * 5, 10, 0.8, 0.4), ((1, 10, 1), 10, 0.8, 0.4), ((1,) * 20, 1, 1.8, 0.45)],
    ids=["chains of five", "fans of ten", "a lone chain"],
)
def test_an_engine_that_schedules_at_intervals_is_not_asked_in_vain(
    steps: tuple[int, ...], at_once: int, most_polls: float, most_empty: float, children: int
) -> None:
    """Asked 2 ms after each receipt, it had nothing in two of three polls, two or three polls an activity."""
    engine = SchedulingEngine(SimHost(children, longest_s=2.0), steps, at_once=at_once)
    asked(engine, 60)
    polls, empty, _ = asked(engine, 400)
    assert polls <= most_polls
    assert empty <= most_empty


@pytest.mark.parametrize("children", [1, 2])
def test_a_chain_is_not_slower_than_its_engine(children: int) -> None:
    """It looks at intervals of 50 ms, when there was something."""
    engine = SchedulingEngine(SimHost(children, longest_s=2.0), (1,) * 20, at_once=1)
    asked(engine, 60)
    _, _, each_second = asked(engine, 200)
    assert each_second >= 1 / 0.07


def test_a_chain_that_goes_from_process_to_process_is_not_kept_at_the_longest_pause() -> None:
    """Each would find what the other has the receipt for, and neither would learn."""
    host = SimHost(2, longest_s=2.0)
    for child in host.children.values():
        child.rule.step.take(0.1, host.now)
    engine = SchedulingEngine(host, (1,) * 20, at_once=1)
    asked(engine, 60)
    assert asked(engine, 200)[2] >= 1 / 0.07


def test_chains_are_quick_again_when_the_engine_has_become_one_that_schedules_at_once() -> None:
    host = SimHost(1)
    engine = SchedulingEngine(host, (1,) * 5, at_once=10)
    asked(engine, 500)
    host.queue.clear()
    host.on_end = lambda item: host.arrive(Item(host.now, workflow=item.workflow))
    host.arrive(Item(host.now))
    host.run(5.0)
    host.pick_ups.clear()
    host.run(5.0)
    assert statistics.median(host.pick_ups) <= 0.003


def test_a_receipt_from_before_a_sibling_took_the_next_activity_teaches_nothing() -> None:
    """What is found may be the activity after that one."""
    for taken_at, learned_at in ((99.5, 100.4), (100.1, 0.0)):
        step = NextStep()
        step.found(["wf"], 99.0, 0.0)
        step.acknowledged("wf", 100.0)
        step.found(["wf"], 100.4, 100.2, taken_at)
        assert step.learned_at == learned_at
