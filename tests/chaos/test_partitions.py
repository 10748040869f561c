"""The engine away or out of reach while work is in flight (faults.md E25, E26, M12)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from chaos.endurance import tries_in_vain
from chaos.proxy import Toxics
from chaos.world import World
from harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

CUT = Toxics(refuse=1.0)


def test_a_partition_within_the_lease_costs_nothing(world: World) -> None:
    """E25, first order: the result is kept, and accepted after the return."""
    world.start_host(processes=2, slots=8)
    world.submit_work(8, (0.5, 0.6))
    eventually(lambda: len(world.notes("start")) == 8, "8 running")
    world.proxy.toxics = CUT
    eventually(lambda: len(world.notes("end")) == 8, "8 results in a partition")
    eventually(lambda: world.proxy.count("complete").total() >= 4, "tries to report")
    world.proxy.toxics = Toxics()
    world.until_done(20)
    assert world.ended() == 8
    assert set(world.engine.claims_per_activity().values()) == {1}


def test_a_partition_beyond_the_lease_ends_in_one_completion(tmp_path: Path) -> None:
    """E25, second order: the leases lapse meanwhile; 409, adopted, or run again, but accepted once."""
    with World(tmp_path) as world:
        host = world.start_host(processes=2, slots=8)
        world.submit_work(8, (0.5, 0.6))
        eventually(lambda: len(world.notes("start")) == 8, "8 running")
        world.proxy.toxics = CUT
        world.engine.wait_for("lapse", 8)
        world.proxy.toxics = Toxics()
        world.until_done(30)
        facts = world.facts(8)
        assert not facts.lost()
        assert not facts.accepted_twice()
        assert not facts.wrong_outputs()
        assert not host.log("process_died")
        assert host.status()["concurrency"]["in_use"] == 0


def test_a_stop_in_an_outage_names_the_results_it_could_not_deliver_and_exits_with_6(world: World) -> None:
    """Otherwise it would not be known that completed work will run again; the drain has 1 s."""
    host = world.start_host("--graceful-timeout", "1", processes=2, slots=8)
    world.submit_work(4, (0.3, 0.4), in_thread=0.0)
    eventually(lambda: len(world.notes("start")) == 4, "4 running")
    world.proxy.toxics = CUT
    eventually(lambda: len(world.notes("end")) == 4, "4 results in an outage")
    host.signal(signal.SIGTERM)
    assert host.wait() == 6
    named = {id_ for line in host.log("work_given_back") for id_ in line["undelivered"]}
    assert named == {note.activity_id for note in world.notes("end")}
    assert not host.tree()


def test_work_in_flight_goes_on_through_a_restart_of_the_engine(world: World) -> None:
    """E26: killed, and started again on the same file and port; results come when it is back."""
    host = world.start_host()
    world.submit_work(60, (0.3, 1.5))
    eventually(lambda: len(world.notes("start")) >= 32, "32 running")
    world.restart_engine()
    world.until_done(30)
    facts = world.facts(32)
    assert not facts.lost()
    assert not facts.accepted_twice()
    assert not world.engine.entries("lapse")
    assert not world.engine.entries("fail")
    assert len(host.log("engine_unreachable")) <= 6  # one a process, not one a try (E1)


@pytest.mark.timeout(90)
def test_results_that_wait_for_the_engine_are_few_calls_and_all_delivered(world: World) -> None:
    """M12: 8 s without an engine, 32 results, at most 15 tries of each child."""
    world.start_host()
    world.submit_work(32, (1.0, 1.5))
    eventually(lambda: len(world.notes("start")) == 32, "32 running")
    world.submit_work(8, (0.02, 0.05))
    world.restart_engine(away_s=8.0)
    [(since, back_at)] = world.outages
    world.until_done(40)
    tries = tries_in_vain(world, since, back_at)
    assert world.ended() == 40
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert max(tries.values()) <= 15
    first = min(e["at_s"] for e in world.engine.entries("claim") if e["at_s"] > since)
    assert first - back_at <= 10
