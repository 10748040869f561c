"""How much a poll asks for: no more than begins while the next answer travels, as long as answers come back full."""

from __future__ import annotations

import threading
import time

import pytest

from flowherd.thread_time import busy_s
from flowherd.worker.poll_batch_size import BUSY, LEAST, MOST, STARVING, WINDOW_S, BatchSize


class Thread:
    """One with clocks of its own, whose polls always come back full."""

    def __init__(self) -> None:
        self.now = self.busy_s = 0.0
        self.batch_size = BatchSize(lambda: self.busy_s)

    def polls(self, times: int, *, idle_share: float, asked: int | None = None, missing: int = 0) -> None:
        for _ in range(times):
            self.now += 2 * WINDOW_S
            self.busy_s += 2 * WINDOW_S * (1 - idle_share)
            asked_for = asked or self.batch_size.most
            self.batch_size.found(asked_for, asked_for - missing, self.now)

    @property
    def most(self) -> int:
        return self.batch_size.most


def test_full_polls_of_a_thread_that_is_never_idle_ask_for_less_and_less_but_never_for_next_to_nothing() -> (
    None
):
    thread = Thread()
    seen = []
    for _ in range(20):
        thread.polls(1, idle_share=0.0)
        seen.append(thread.most)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == MOST
    assert seen[-1] == LEAST


def test_a_thread_that_waits_for_a_distant_engine_asks_for_all_again() -> None:
    thread = Thread()
    thread.polls(20, idle_share=0.0)
    thread.polls(4, idle_share=STARVING + 0.01)
    assert thread.most == MOST


def test_a_little_idleness_is_neither() -> None:
    thread = Thread()
    thread.polls(2, idle_share=0.0)
    before = thread.most
    thread.polls(20, idle_share=(BUSY + STARVING) / 2)
    assert thread.most == before < MOST


def test_where_slots_are_the_limit_it_begins_with_them() -> None:
    thread = Thread()
    thread.polls(2, idle_share=0.0, asked=40)
    assert thread.most == 20


@pytest.mark.parametrize("missing", [1, MOST])
def test_polls_that_do_not_come_back_full_teach_nothing(missing: int) -> None:
    """A queue that runs empty needs every poll it can get."""
    thread = Thread()
    thread.polls(20, idle_share=0.0, asked=MOST, missing=missing)
    assert thread.most == MOST


def test_time_between_two_queues_is_not_idleness() -> None:
    thread = Thread()
    thread.polls(20, idle_share=0.0)
    thread.polls(1, idle_share=0.0, missing=1)
    thread.now += 100.0
    thread.polls(5, idle_share=0.0)
    assert thread.most == LEAST


def test_a_thread_that_computes_has_always_something_to_do_and_one_that_waits_has_not() -> None:
    """Also beside others that want the same CPU: waiting for one is not idleness."""
    spent: list[float] = []

    def spend() -> None:
        before = busy_s()
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        spent.append(busy_s() - before)
        before = busy_s()
        threading.Event().wait(0.05)
        spent.append(busy_s() - before)

    thread = threading.Thread(target=spend)
    thread.start()
    thread.join()
    assert spent[0] > 0.01
    assert spent[1] < 0.05
