"""Who polls next and when: a host's children and an engine, simulated without a clock."""

from __future__ import annotations

import random
import statistics

import pytest
from polling_kit import Item, SimHost

from flowherd.worker.polling.rule import SOON_S


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# A host without work


@pytest.mark.parametrize("children", [1, 2, 8])
def test_an_idle_host_polls_once_an_interval_however_many_children_it_has(children: int) -> None:
    """Eight uncoordinated pollers would send eighty requests a second."""
    host = SimHost(children).run(5.0)
    begun = host.now
    assert 10 <= len(host.run(30.0).polls_after(begun)) / 30 <= 12.5


def test_idle_children_look_once_for_each_poll_of_the_host() -> None:
    """Each is ready to ask in place of the others; 64 of them must not ask at once."""
    for children in (8, 64):
        host = SimHost(children).run(5.0)
        before = sum(child.looks for child in host.children.values())
        begun = host.now
        polls = len(host.run(10.0).polls_after(begun))
        assert 100 <= polls <= 125
        assert sum(child.looks for child in host.children.values()) - before <= 1.05 * (children + 2) * polls


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
    assert quantile(host.pick_ups, 0.5) <= 0.015
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
@pytest.mark.parametrize(("count", "most"), [(12, 4), (5, 2), (4, 2)])
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
        assert max(host.per_child.values()) <= most, (seed, host.per_child)


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
    assert max(host.per_child.values()) <= 2
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
