"""Who polls next and when: a host's children and an engine, simulated without a clock."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polling_kit import Item, SimHost

from flowherd.worker.admission import claimable
from flowherd.worker.next_step import SOON_S
from flowherd.worker.poll_pace import PATIENCE_S, RISE, Pace, Rhythm
from flowherd.worker.poll_turns import Leave, Poll, Wait, decide
from flowherd.worker.sibling_processes import OVERDUE_S, Sibling

RHYTHM = Rhythm(0.1, 2.0)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# A host without work


@pytest.mark.parametrize("children", [1, 2, 8])
def test_an_idle_host_polls_once_an_interval_however_many_children_it_has(children: int) -> None:
    """Eight uncoordinated pollers would send eighty requests a second."""
    host = SimHost(children).run(5.0)
    begun = host.now
    assert 10 <= len(host.run(30.0).polls_after(begun)) / 30 <= 12.5


def test_idle_children_take_equal_turns_and_wake_for_little_else() -> None:
    host = SimHost(8).run(5.0)
    before = sum(child.looks for child in host.children.values())
    begun = host.now
    host.run(60.0)
    turns = Counter(child for at, child in host.polls if at >= begun)
    assert max(turns.values()) <= 1.3 * min(turns.values())
    looks = sum(child.looks for child in host.children.values()) - before
    assert looks <= 1.2 * 2 * turns.total()  # one before the poll and one after it


def test_a_long_idle_host_spreads_its_polls_to_the_longest_interval() -> None:
    host = SimHost(8, longest_s=2.0).run(900.0)
    begun = host.now
    assert 0.5 <= len(host.run(60.0).polls_after(begun)) / 60 <= 0.8


def test_a_host_that_has_had_work_in_the_last_ten_minutes_picks_up_a_lone_activity_as_soon_as_ever() -> None:
    """One activity a minute should not wait longer than with a worker that never rests."""
    host = SimHost(2, longest_s=2.0).run(5.0)
    begun = host.now
    for _ in range(40):
        host.arrive(Item(host.now + 10 + host.rng.random()))
        host.run(15.0)
    assert len(host.polls_after(begun)) / (host.now - begun) <= 12.5
    assert quantile(host.pick_ups, 0.5) <= 0.055
    assert max(host.pick_ups) <= 0.11


def test_children_forked_together_poll_neither_at_once_nor_in_phase_with_another_host() -> None:
    """Without jitter all hosts that were started together would always poll together."""
    times = [[round(at, 3) for at in SimHost(4, seed=seed).run(3.0).polls_after(1001.0)] for seed in range(4)]
    assert all(len(set(one)) == len(one) for one in times)
    assert len({one[-1] for one in times}) == 4


def test_a_lone_arrival_on_an_idle_host_waits_half_an_interval() -> None:
    """Circuit: p50 ≤ 55 ms, p99 ≤ 115 ms at ≤ 14 polls a second."""
    host = SimHost(8)
    host.arrive(*(Item(1005.0 + number + host.rng.random()) for number in range(400)))
    host.run(420.0)
    assert len(host.pick_ups) == 400
    assert quantile(host.pick_ups, 0.5) <= 0.052
    assert quantile(host.pick_ups, 0.99) <= 0.11


# A host with work


def test_a_stream_of_light_work_is_picked_up_soon() -> None:
    """Circuit: a Poisson stream of 20 a second, p50 ≤ 15 ms, p99 ≤ 110 ms."""
    host, at = SimHost(8), 1005.0
    for _ in range(2000):
        at += host.rng.expovariate(20.0)
        host.arrive(Item(at))
    host.run(at - 1000.0 + 1.0)
    assert quantile(host.pick_ups, 0.5) <= 0.012
    assert quantile(host.pick_ups, 0.99) <= 0.095
    assert len(host.polls) / (at - 1000.0) <= 150


@pytest.mark.parametrize("children", [1, 8])
def test_a_chain_of_dependent_steps_goes_on_within_milliseconds(children: int) -> None:
    """A completion usually makes the next step ready."""
    host = SimHost(children)
    host.on_end = lambda _: host.arrive(Item(host.now + SOON_S))
    host.arrive(Item(1003.0))
    host.run(10.0)
    assert len(host.pick_ups) > 500
    assert statistics.median(host.pick_ups) <= 0.003


@pytest.mark.parametrize(("children", "seed"), [(2, 3), (4, 1)])
def test_more_chains_than_slots_do_not_slow_each_other_down(children: int, seed: int) -> None:
    """A receipt from before a sibling took the next activity says nothing of the one after; pauses grew to 100 ms."""
    host, rng = SimHost(children, slots=8, seed=seed).run(5.0), random.Random(seed)
    host.on_end = lambda item: host.arrive(Item(host.now + SOON_S, 0.002, workflow=item.workflow))
    for _ in range(10):
        host.arrive(Item(host.now + rng.random(), 0.002))
    host.run(6.0)
    assert quantile(host.pick_ups, 0.99) <= 0.003


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize(("count", "most"), [(12, 4), (5, 2), (4, 1)])
def test_heavy_activities_queued_at_once_spread_over_the_children(
    count: int, most: int, *, warm_up: bool
) -> None:
    """One lucky child would take them all while its siblings sleep, all the more after it has met light work only."""
    for seed in range(10):
        host = SimHost(4, seed=seed)
        if warm_up:
            host.arrive(*(Item(1000.0 + 0.01 * number) for number in range(300)))
        host.run(10.0)
        host.per_child.clear()
        host.arrive(*[Item(host.now, 0.3, heavy=True)] * count)
        host.run(5.0)
        assert host.per_child.total() == count
        assert max(host.per_child.values()) <= most + (warm_up and count == 4), (seed, host.per_child)


def test_waiting_activities_spread_by_load() -> None:
    """Their loops are free; still eight on one child and none on its siblings would share one core."""
    most = []
    for seed in range(8):
        host = SimHost(4, seed=seed).run(5.0)
        host.arrive(*(Item(host.now + 0.05 * number, 10.0) for number in range(40)))
        host.run(5.0)
        assert host.per_child.total() == 40
        most.append(max(host.per_child.values()))
    assert statistics.mean(most) <= 14.5, most
    assert max(most) <= 16, most


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize(("count", "most"), [(8, 4), (3, 2), (20, 12)])
def test_a_burst_of_waiting_activities_is_shared_evenly(count: int, most: int, *, warm_up: bool) -> None:
    """It is unknown how long they wait, and what they compute afterwards."""
    shares = []
    for seed in range(20):
        host = SimHost(2, seed=seed)
        if warm_up:
            host.arrive(*(Item(1000.0 + 0.01 * number) for number in range(300)))
        host.run(10.0)
        host.per_child.clear()
        host.arrive(*[Item(host.now + host.rng.random(), 10.0)] * count)
        host.run(5.0)
        assert host.per_child.total() == count
        shares.append(max(host.per_child.values()))
    assert quantile(shares, 0.9) <= most, shares


@pytest.mark.parametrize(("count", "most"), [(8, 4), (3, 2)])
def test_one_burst_of_waiting_activities_after_the_other_is_shared_evenly(count: int, most: int) -> None:
    """The next one comes as soon as the last one has ended."""
    shares = []
    for seed in range(4):
        host = SimHost(2, seed=seed).run(5.0)
        for _ in range(10):
            host.per_child.clear()
            host.arrive(*[Item(host.now + 0.1 * host.rng.random(), 0.3)] * count)
            host.run(0.42)
            assert host.per_child.total() == count
            shares.append(max(host.per_child.values()))
    assert quantile(shares, 0.9) <= most, shares


def test_activities_that_end_soon_are_fetched_many_at_a_time_beside_others_that_wait_for_long() -> None:
    host = SimHost(2, slots=64).run(5.0)
    host.arrive(*[Item(host.now, 100.0)] * 20)
    host.run(5.0)
    begun = host.now
    host.arrive(*[Item(host.now, 0.01)] * 2000)
    host.run(1.0)
    assert host.per_child.total() == 2020
    assert len(host.polls_after(begun)) <= 250


def test_many_light_activities_are_fetched_by_all_children_and_several_a_poll() -> None:
    host = SimHost(4).run(5.0)
    begun = host.now
    host.arrive(*[Item(host.now, 0.01)] * 1000)
    host.run(5.0)
    assert host.per_child.total() == 1000
    assert min(host.per_child.values()) >= 150, host.per_child
    assert len([at for at in host.polls_after(begun) if at < begun + 1.0]) <= 350


# Siblings that cannot


@pytest.mark.parametrize("how", ["freeze", "die", "drain"])
@pytest.mark.parametrize("gone", [1, 4])
def test_a_sibling_that_is_gone_when_its_turn_comes_costs_the_host_that_turn_at_most(
    how: str, gone: int
) -> None:
    """Its cells go stale without a message, and the host must not wait for it again."""
    for seed in range(10):
        host = SimHost(8, seed=seed).run(10.0)
        for child in list(host.children.values())[:gone]:
            getattr(child, how)()
        begun = host.now
        assert host.run(10.0).longest_gap_s(begun) <= 0.101 * (gone + 1)
        settled = host.now
        assert host.run(10.0).longest_gap_s(settled) <= 0.105


def test_a_frozen_sibling_that_should_be_woken_is_waited_for_only_once() -> None:
    """The busier process leaves its turn to it, and polls itself when it does not come."""
    host = SimHost(2, interval_s=1.0, longest_s=1.0).run(10.0)
    busy, frozen = host.children.values()
    frozen.freeze()
    host.arrive(Item(host.now, 60.0))
    host.run(3.0)
    assert busy.held == 1
    begun = host.now
    host.arrive(*(Item(begun + number) for number in range(1, 11)))
    host.run(20.0)
    assert max(host.pick_ups[1:]) <= 1.05


def test_a_busy_process_that_is_woken_leaves_that_poll_to_a_sibling_once() -> None:
    """The keeper wakes all processes when something was adopted; the host polled every 10 ms from then on."""
    host = SimHost(3).run(5.0)
    host.arrive(Item(host.now, 60.0))
    host.run(2.0)
    [busy] = [child for child in host.children.values() if child.held]
    woken_at = host.now
    host.wake(busy.segment.number)
    assert len(host.run(5.0).polls_after(woken_at)) / 5 <= 15


def test_a_busy_host_polls_once_an_interval_also_if_that_is_hardly_longer_than_a_process_waits_for_another() -> (
    None
):
    """At 20 ms it polled every 10 ms: the busy process left its place again and again."""
    host = SimHost(2, interval_s=0.02, longest_s=0.02).run(3.0)
    host.arrive(Item(host.now, 60.0))
    begun = host.run(1.0).now
    assert len(host.run(2.0).polls_after(begun)) / 2 <= 70


def test_a_blocked_child_is_passed_over_although_it_has_the_next_place() -> None:
    host = SimHost(4).run(5.0)
    host.arrive(*[Item(host.now, 3.0, heavy=True)] * 3)
    host.run(0.5)
    assert sorted((+host.per_child).values()) == [1, 1, 1]
    begun = host.now
    host.arrive(*(Item(begun + 0.1 * number) for number in range(20)))
    host.run(2.2)
    assert max(host.pick_ups[3:]) <= 0.12


def test_after_long_idleness_one_child_cannot_take_the_hosts_turns_with_it() -> None:
    """Its siblings have gone to sleep for many long intervals."""
    for seed in range(10):
        host = SimHost(8, longest_s=2.0, seed=seed).run(1000.0)
        host.arrive(Item(host.now, 30.0, heavy=True))
        host.run(2.5)
        assert len(host.pick_ups) == 1
        begun = host.now
        host.arrive(*(Item(begun + 0.5 * number) for number in range(10)))
        host.run(10.0)
        assert max(host.pick_ups[1:]) <= 0.25, (seed, host.pick_ups)


def test_a_host_that_starts_and_scales_never_polls_less_than_once_an_interval_nor_much_more() -> None:
    host = SimHost(1).run(5.0)
    begun = host.now
    for _ in range(7):
        host.fork()
        host.run(1.0)
    for child in list(host.children.values())[2:]:
        child.drain()
        host.run(0.5)
    assert host.longest_gap_s(begun) <= 0.21
    assert len(host.polls_after(begun)) / (host.now - begun) <= 20  # a new child looks for work at once


# The decision itself


def test_a_siblings_empty_poll_answers_for_this_process_too() -> None:
    pace, me = Pace(worked_at=10.0), Sibling(1)
    turn, _ = decide(pace, me, [Sibling(2, drained_at=10.01)], RHYTHM, 10.01, is_roomy=True)
    assert turn == Wait(pytest.approx(10.01 + 0.01 * RISE))


def test_a_busier_process_leaves_its_turn_to_the_freest_sibling() -> None:
    siblings = [Sibling(2, next_poll_at=11.0, load=1), Sibling(3, next_poll_at=11.0), Sibling(4, load=0)]
    turn, pace = decide(
        Pace(worked_at=1.0, polled_at=9.0, is_called=True),
        Sibling(1, load=4),
        siblings,
        RHYTHM,
        10.0,
        is_roomy=True,
    )
    assert isinstance(turn, Leave)
    assert turn.to == 3
    again, _ = decide(pace, Sibling(1, load=4), siblings, RHYTHM, turn.until, is_roomy=True)
    assert again == Poll()


def test_no_turn_is_left_to_a_sibling_that_has_missed_its_own() -> None:
    """It is frozen, or its loop is blocked: waking it would cost the host 10 ms each time."""
    pace, me = Pace(worked_at=1.0, polled_at=9.0, is_called=True), Sibling(1, load=4)
    for sibling in (Sibling(2, next_poll_at=9.0), Sibling(2, next_poll_at=11.0, is_on_loop=True), Sibling(2)):
        turn, _ = decide(pace, me, [sibling], RHYTHM, 10.0, is_roomy=True)
        assert turn == Poll()


def test_a_process_whose_loop_lags_leaves_its_turn_to_one_whose_loop_does_not() -> None:
    siblings = [Sibling(2, next_poll_at=11.0, lag_s=0.001)]
    pace = Pace(worked_at=1.0, polled_at=9.0, is_called=True)
    turn, _ = decide(pace, Sibling(1, lag_s=0.08), siblings, RHYTHM, 10.0, is_roomy=True)
    assert isinstance(turn, Leave)
    turn, _ = decide(pace, Sibling(1, lag_s=0.001), siblings, RHYTHM, 10.0, is_roomy=True)
    assert turn == Poll()


def test_two_polls_of_a_host_after_receipts_are_a_pause_apart() -> None:
    """What was ready by the first one has come with it."""
    pace = Pace(worked_at=10.0, receipt_at=10.0, polled_at=9.9, pause_s=0.05)
    sibling = Sibling(2, polled_at=10.02, worked_at=10.03, next_poll_at=10.2)
    turn, _ = decide(pace, Sibling(1), [sibling], RHYTHM, 10.05, is_roomy=True)
    assert turn == Wait(pytest.approx(10.07))


def test_after_a_full_batch_a_process_polls_again_unless_a_sibling_has_emptied_the_queue() -> None:
    """Two of three such polls would bring nothing."""
    pace = Pace(worked_at=10.0, polled_at=9.996, is_hungry=True, pause_s=0.05)
    me, asked_at = Sibling(1), 10.001
    is_asking, has_emptied = (
        Sibling(2, polled_at=asked_at, drained_at=drained_at) for drained_at in (0.0, asked_at)
    )
    assert decide(pace, me, [is_asking], RHYTHM, 10.005, is_roomy=True)[0] == Poll()
    assert decide(pace, me, [has_emptied], RHYTHM, 10.005, is_roomy=True)[0] == Wait(asked_at + 0.05)


def test_a_sibling_is_woken_for_the_rest_of_the_queue_only_where_a_process_cannot_fetch_it_soon() -> None:
    """To wake it, poll there and wait for its receipts costs more than the activities do."""
    host = SimHost(2, slots=4).run(5.0)
    policy, woken, at = host.children[0].policy, [], host.now
    host.wake = woken.append

    def poll_brings_all(at: float, *, is_light: bool = True) -> None:
        policy.began(at)
        policy.found(4, 4, began_at=at, now=at, is_light=is_light)

    poll_brings_all(at)
    assert policy.full(at) == at + PATIENCE_S
    assert not woken
    assert policy.full(at + PATIENCE_S) == policy.full(at + 2 * PATIENCE_S) == math.inf
    assert woken == [1]
    poll_brings_all(at + 0.03)
    assert woken == [1, 1], "two full batches one after the other"
    policy.began(at + 0.04)
    policy.found(4, 0, began_at=at + 0.04, now=at + 0.04, is_light=True)
    assert policy.full(at + 0.06) == math.inf
    poll_brings_all(at + 0.05, is_light=False)
    assert woken == [1, 1, 1]


def test_a_process_polls_a_pause_after_a_sibling_that_comes_before_it() -> None:
    """It would only wake to find that the host has just polled."""
    pace, me = Pace(worked_at=10.0, polled_at=9.99, pause_s=0.05), Sibling(1)
    for sibling, at in (
        (Sibling(2, polled_at=9.9, worked_at=9.99, next_poll_at=10.04), 10.09),
        (Sibling(2, polled_at=9.9, worked_at=9.99, next_poll_at=10.06), 10.05),
        (
            Sibling(2, polled_at=9.9, worked_at=9.5, next_poll_at=10.04),
            10.05,
        ),  # would leave its place to this one
        (Sibling(2, polled_at=9.9, worked_at=9.99, next_poll_at=10.04, is_on_loop=True), 10.05),
    ):
        turn, _ = decide(pace, me, [sibling], RHYTHM, 10.01, is_roomy=True)
        assert turn == Wait(pytest.approx(at))


def test_a_process_without_work_leaves_its_place_to_a_sibling_that_polls_soon() -> None:
    """It has the receipt, and learns from what its poll finds; stolen by others, nobody would learn."""
    pace = Pace(worked_at=1.0, polled_at=9.0, drained_at=9.0, due_at=10.0)
    at_work = Sibling(2, polled_at=9.5, worked_at=9.9, next_poll_at=10.04)
    turn, _ = decide(pace, Sibling(1), [at_work], RHYTHM, 10.0, is_roomy=True)
    assert isinstance(turn, Wait)
    assert turn.until > 10.04
    turn, _ = decide(
        pace, Sibling(1), [at_work._replace(next_poll_at=10.0 + 1.0)], RHYTHM, 10.0, is_roomy=True
    )
    assert turn == Poll()


def test_how_much_is_asked_for_beside_siblings_doubles_with_full_batches_and_halves_with_those_of_idleness() -> (
    None
):
    """A poll after work that finds nothing has only come too early."""
    pace, rng, ramps = Pace(), random.Random(1), []
    for due_at in (0.0, 1.0):
        pace = Pace(ramp=8, due_at=due_at).after_poll(8, 0, 1.0, 1.0, rng, load=0, is_light=True)
        ramps.append(pace.ramp)
    assert ramps == [8, 4]
    pace, ramps = Pace(), []
    for asked, found in ((1, 0), (1, 1), (2, 2), (4, 4), (8, 5), (8, 0), (4, 0), (2, 0)):
        pace = pace._replace(due_at=1.0).after_poll(asked, found, 1.0, 1.0, rng, load=found, is_light=True)
        ramps.append(pace.ramp)
    assert ramps == [1, 2, 4, 8, 8, 4, 2, 2]


def test_a_process_whose_activities_wait_asks_for_two_once_the_queue_was_empty() -> None:
    """The next ones may wait as long: whoever asked for eight would have them all."""
    pace = Pace(ramp=8).after_poll(8, 8, 1.0, 1.0, random.Random(1), load=8, is_light=True)
    assert pace.after_poll(16, 1, 2.0, 2.0, random.Random(1), load=9, is_light=True).ramp == 2
    assert pace.after_poll(16, 1, 2.0, 2.0, random.Random(1), load=2, is_light=True).ramp == 16
    emptied = [Sibling(2, polled_at=1.5, drained_at=1.5)]
    for load, ramp in ((8, 2), (1, 16)):
        _, after = decide(pace, Sibling(1, load=load), emptied, RHYTHM, 1.6, is_roomy=True)
        assert after.ramp == ramp


@pytest.mark.parametrize("polled_at", [9.95, 9.5])
def test_while_its_activities_wait_a_process_leaves_its_turn_to_one_that_is_polling(polled_at: float) -> None:
    """After so long it is none any more that polls."""
    siblings = [Sibling(2, polled_at=polled_at, load=3)]
    pace = Pace(worked_at=9.9, polled_at=9.8, is_called=True, filling_above=2.0)
    turn, _ = decide(pace, Sibling(1, load=4), siblings, RHYTHM, 10.0, is_roomy=True)
    assert turn == (Leave(2, 10.0 + PATIENCE_S) if polled_at > 9.9 else Poll())
    turn, _ = decide(pace, Sibling(1, load=3), siblings, RHYTHM, 10.0, is_roomy=True)
    assert turn == Poll()


def test_a_poll_asks_for_what_can_start_soon() -> None:
    assert [claimable(busy_s) for busy_s in (0.0, 0.0001, 0.05, 0.3, 60.0)] == [100, 100, 4, 1, 1]
    assert claimable(5e-324) == 100, (
        "the mean of thousands of threads on a clock of thread times that is coarse"
    )


times = st.floats(0.0, 1e6)
siblings = st.builds(
    Sibling,
    number=st.integers(0, 9),
    next_poll_at=times,
    polled_at=times,
    drained_at=times,
    worked_at=times,
    load=st.integers(0, 99),
    lag_s=st.floats(0.0, 10.0),
    is_on_loop=st.booleans(),
)


@given(
    st.builds(
        Pace,
        worked_at=times,
        polled_at=times,
        drained_at=times,
        due_at=st.just(0.0),
        woke_at=times,
        is_called=st.booleans(),
        is_hungry=st.booleans(),
        ramp=st.just(1),
        jitter=st.floats(0.7, 1.0),
        receipt_at=times,
        pause_s=st.floats(0.002, 0.05),
    ),
    siblings,
    st.lists(siblings, max_size=8),
    st.builds(Rhythm, st.floats(0.001, 100.0), st.floats(0.001, 100.0)),
    times,
    st.lists(st.floats(-1.0, 12.0), min_size=8, max_size=8),
    st.booleans(),
)
def test_whatever_the_cells_hold_the_wait_is_bounded(
    pace, me, others, rhythm, since_s, ahead, is_roomy
) -> None:
    """A process polls after n places at the latest, whoever of the n others is alive; a place has 1.5 periods."""
    now = 1e6 + since_s
    longest_s = max(rhythm.interval_s, rhythm.interval_max_s)
    others = [
        one._replace(next_poll_at=now + periods * longest_s)
        for one, periods in zip(others, ahead, strict=False)
    ]
    turn, _ = decide(pace, me, others, rhythm, now, is_roomy=is_roomy)
    match turn:
        case Wait(until) | Leave(_, until):
            assert now < until <= now + (1.5 * len(others) + 1) * longest_s + 2 * OVERDUE_S
        case Poll():
            pass


_KEPT = """
import gc, sys
from flowherd.settings.worker_config import WorkerConfig
from flowherd.ledger import Ledger, RecordWriter
from flowherd.ledger.wakeups import Wakeups
from flowherd.worker.sibling_processes import Siblings
import random
from flowherd.worker.poll_policy import PollPolicy
ledger = Ledger(processes=1, records=4)
segment = ledger.segments[0]
segment.open(index=0, incarnation=1, now=1.0)
RecordWriter(segment)
siblings = Siblings(ledger.segments, segment, Wakeups(len(ledger.segments)))
policy = PollPolicy(WorkerConfig(), siblings, 1.0, random.Random(1), lambda: 0.0)
policy.began(1.0)
policy.found(1, 0, began_at=1.0, now=1.0, is_light=True)
def look():
    waits = 0
    between = []  # so that nothing is made where something else has just gone
    for _ in range(500):
        waits += policy.next_at(1.0, is_roomy=True) > 1.0
        between.append(bytes(20))
    return waits
look()
getattr(sys, "_clear_type_cache", int)()
gc.collect()
before = sys.getallocatedblocks()
waits = look()
gc.collect()
print(waits, sys.getallocatedblocks() - before)
"""


def test_to_look_again_and_again_leaves_nothing_in_the_interpreters_caches() -> None:
    """Python 3.11 matches by place with a name that is new each time, and a cache of thousands keeps each."""
    done = subprocess.run(
        [sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True, timeout=60
    )
    waits, kept = map(int, done.stdout.split())
    assert waits == 500, "a turn that polls shows nothing"
    assert kept < 100
