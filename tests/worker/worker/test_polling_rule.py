"""The pure rule of the host's polls: when one is due, who asks, for how much, and what an answer calls for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.worker.polling.rule import (
    IDLE_AFTER_S,
    INDEX_S,
    LOAD_S,
    SHARE,
    SOON_S,
    PollRule,
    Said,
    batch_size,
    due_at,
    freest,
    interval,
)

times = st.floats(0.0, 1e6)
said = st.builds(
    Said,
    number=st.integers(0, 63),
    polled_at=times,
    pause_s=st.floats(0.0, 10.0),
    worked_at=times,
    load=st.integers(0, 200),
    slots=st.integers(0, 128),
    step_s=st.floats(0.0, 10.0),
    learned_at=times,
)


def a_rule(now: float = 0.0, longest_s: float = 2.0) -> PollRule:
    return PollRule(0.1, longest_s, now, random.Random(1))


# When


@given(said, st.lists(said, min_size=1, max_size=8))
def test_a_poll_is_due_after_the_pause_of_the_newest_one_and_at_most_one_delay_later(me, others) -> None:
    """Whatever the cells hold: so no process that is gone keeps the host from asking."""
    newest = max((me, *others), key=lambda one: one.polled_at)
    late_s = due_at(me, others) - newest.polled_at - newest.pause_s
    assert -1e-9 <= late_s <= LOAD_S + 63 * INDEX_S + 1e-9


def test_the_freest_asks_first_and_the_others_in_the_order_of_their_numbers() -> None:
    polled = Said(9, polled_at=10.0, pause_s=0.1)
    half = Said(0, load=8, slots=16)
    assert due_at(half, [polled]) == pytest.approx(10.1 + 0.0025)
    assert due_at(Said(0, slots=16), [polled]) == pytest.approx(10.1)
    assert due_at(Said(3, slots=16), [polled]) == pytest.approx(10.1 + 0.0009)
    assert due_at(Said(0, load=40, slots=16), [polled]) == pytest.approx(10.1 + 0.005)


def test_a_process_without_siblings_leaves_nothing_to_anybody() -> None:
    assert due_at(Said(5, polled_at=10.0, pause_s=0.1, load=4, slots=4), []) == pytest.approx(10.1)


def test_the_freest_is_woken_only_if_it_is_freer() -> None:
    one, two = Said(1, load=2, slots=8), Said(2, load=1, slots=8)
    assert freest(Said(0, load=3, slots=8), [one, two]) == two
    assert freest(Said(0, load=1, slots=8), [one, two]) is None
    assert freest(Said(0, load=3, slots=8), []) is None


def test_the_interval_grows_after_ten_minutes_to_the_longest_one() -> None:
    assert interval(0.1, 2.0, 0.0) == interval(0.1, 2.0, IDLE_AFTER_S) == pytest.approx(0.1)
    assert IDLE_AFTER_S == 600
    assert interval(0.1, 2.0, IDLE_AFTER_S + 10) == pytest.approx(0.2)
    assert interval(0.1, 2.0, 1e6) == pytest.approx(2.0)
    assert interval(5.0, 2.0, 1e6) == interval(5.0, 2.0, 0.0) == pytest.approx(5.0)


# How much


@given(st.integers(0, 500), st.integers(0, 500), st.integers(-50, 500), st.booleans())
def test_no_poll_asks_for_more_than_is_free_nor_for_nothing_if_something_is(
    free, slots, ended, alone
) -> None:
    asked = batch_size(free, slots, ended, has_siblings=not alone)
    assert min(free, 1) <= asked <= free


def test_a_poll_asks_for_twice_what_has_ended_and_for_an_eighth_of_the_slots_at_least() -> None:
    assert SHARE == 8
    assert [batch_size(64, 64, ended, has_siblings=True) for ended in (0, 4, 5, 20, 40)] == [8, 8, 10, 40, 64]
    assert batch_size(64, 64, 0, has_siblings=False) == 64
    assert batch_size(4, 4, 0, has_siblings=True) == 1


# What an answer calls for


def test_while_an_answer_is_out_and_after_one_that_was_not_full_the_pause_is_the_interval() -> None:
    rule = a_rule()
    for found in (0, 3):
        assert 0.08 <= rule.began(10.0, []) <= 0.1
        assert 0.08 <= rule.answered(4, found, 10.001, []) <= 0.1


def test_after_a_full_answer_the_next_poll_is_due_at_once() -> None:
    rule = a_rule()
    rule.began(10.0, [])
    assert rule.answered(4, 4, 10.25, []) == pytest.approx(0.25)
    rule.began(10.3, [])
    assert rule.answered(4, 5, 10.5, []) == pytest.approx(0.2)


def test_work_of_a_sibling_keeps_the_interval_short() -> None:
    rule = a_rule()
    assert rule.began(2000.0, []) >= 1.6
    assert rule.began(2000.0, [Said(1, worked_at=1500.0)]) <= 0.1


def test_a_receipt_makes_a_process_ask_after_the_learned_pause_unless_the_host_has_asked_since() -> None:
    rule, me = a_rule(), Said(0, polled_at=10.0, pause_s=0.1)
    rule.step.take(0.05, 1.0)
    assert rule.acknowledged("wf", 10.02) == pytest.approx(10.07)
    assert rule.next_at(me, []) == pytest.approx(10.07)
    early, since = (Said(1, polled_at=at, pause_s=0.1) for at in (10.06, 10.08))
    assert rule.next_at(me, [early]) == pytest.approx(10.07)
    assert rule.next_at(me, [since]) == pytest.approx(10.18)


def test_receipts_within_an_eighth_of_the_pause_share_a_poll() -> None:
    rule, me = a_rule(), Said(0, polled_at=10.0, pause_s=1.0)
    rule.step.take(0.08, 1.0)
    assert rule.acknowledged("a", 10.0) == pytest.approx(10.08)
    assert rule.acknowledged("b", 10.009) == pytest.approx(10.089)
    rule.acknowledged("c", 10.011)
    assert rule.next_at(me, []) == pytest.approx(10.089)
    rule.began(10.089, [])
    assert rule.next_at(me, []) == pytest.approx(10.091)


def test_a_next_step_that_is_not_there_is_asked_for_again_after_ever_longer_pauses() -> None:
    rule, now, pauses = a_rule(), 10.08, []
    rule.step.take(0.08, 1.0)
    rule.acknowledged("a", 10.0)
    for _ in range(6):
        rule.began(now, [])
        pauses.append(rule.answered(4, 0, now, []))
        now += pauses[-1]
    assert pauses[:4] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert 0.08 <= min(pauses[4:]) <= max(pauses) <= 0.1
    rule.acknowledged("a", now)
    rule.began(now + 0.08, [])
    rule.answered(4, 1, now, [])
    rule.began(now + 0.2, [])
    assert rule.answered(4, 0, now + 0.2, []) >= 0.08


def test_a_poll_for_nothing_in_particular_waits_for_a_next_step_that_is_due_soon_after_it() -> None:
    rule = a_rule()
    rule.step.take(0.2, 1.0)
    rule.acknowledged("a", 9.903)
    assert rule.began(10.0, []) <= 0.1
    assert rule.answered(4, 0, 10.0, []) == pytest.approx(0.103)


def test_the_first_retry_is_never_sooner_than_the_shortest_pause() -> None:
    rule = a_rule()
    rule.acknowledged("a", 10.0)
    rule.began(10.0 + SOON_S, [])
    assert rule.answered(4, 0, 10.0 + SOON_S, []) == pytest.approx(SOON_S)


def test_a_process_goes_on_from_the_newest_lesson_of_its_siblings() -> None:
    rule = a_rule()
    rule.next_at(Said(0), [Said(1, step_s=0.07, learned_at=5.0), Said(2, step_s=0.03, learned_at=4.0)])
    assert rule.step.pause_s == pytest.approx(0.07)


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from("rpf")), max_size=60), st.lists(said, max_size=4)
)
def test_in_any_history_the_pauses_are_bounded_and_the_next_poll_is_never_further(history, others) -> None:
    """Nobody but the clock is needed for the next poll."""
    now = 1e6
    rule, me = a_rule(now), Said(0, polled_at=now, pause_s=0.1)
    others = [one._replace(polled_at=now - 1) for one in others]
    for after_s, what in history:
        now += after_s
        if what == "r":
            assert rule.acknowledged("wf", now) <= now + 1.0
        else:
            pause_s = rule.began(now, others)
            if what == "f":
                pause_s = rule.answered(1, 0, now, others, [])
            assert 0.0 < pause_s <= 2.0
            me = me._replace(polled_at=now, pause_s=pause_s)
        assert rule.next_at(me, others) <= me.polled_at + me.pause_s + LOAD_S
