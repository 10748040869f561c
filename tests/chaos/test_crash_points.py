"""A process dies at each named point of an activity's way, once: nothing is lost, accepted or counted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from chaos.oracle import pid_of
from chaos.proxy import Fate
from harness import eventually

from flowherd.crashpoints import KEEPER_POINTS, POINTS, VARIABLE, bind, reached

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.world import World

# The engine's expected claims of the interrupted activity, with the reason.
HANDED_BACK = {
    "before_poll": 0,  # C1: nothing was claimed
    "after_poll": 0,  # C2: no record yet: the claims wait for the end of their leases
    "after_claim": 0,  # C3: adopted
    "after_handler": 1,  # C5: run again, since its result is unknown
    "before_report": 0,  # C6: the kept result is delivered by the keeper
    "after_report": 0,  # C6: accepted, and delivered again without effect
}


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_at_a_named_point_costs_at_most_an_attempt(
    world: World, tmp_path: Path, point: str
) -> None:
    """C1, C2, C3, C5, C6: SIGKILL at each point, the second time it is reached."""
    marker = tmp_path / "struck"
    world.submit_work(12, (0.02, 0.05), in_thread=0.0)
    flags = ("--poll-max", "1", "--poll-interval", "0.01")
    host = world.start_host(*flags, processes=2, slots=2, env={VARIABLE: f"{point}:2:SIGKILL:{marker}"})
    [died] = host.wait_for_log("process_died")
    assert marker.exists(), "the point was not reached"
    assert "SIGKILL" in died["how"]
    eventually(lambda: len(world.engine.completions_per_activity()) >= 11, "all but what was in a reply")
    world.engine.wait_for("fail", HANDED_BACK[point])
    in_a_reply = len(_claimed_by_nobody(world))  # C2: the end of its lease heals it
    assert in_a_reply == 1 if point == "after_poll" else in_a_reply <= 1
    if in_a_reply:
        world.engine.advance(61)
    world.until_done(20)
    assert len(world.engine.completions_per_activity()) == 12
    assert set(world.engine.completions_per_activity().values()) == {1}
    assert len(world.engine.entries("fail")) == HANDED_BACK[point]
    assert world.engine.claims_per_activity().total() == 12 + HANDED_BACK[point] + in_a_reply


def _claimed_by_nobody(world: World) -> set[str]:
    """Returns activities that the engine assigns to a dead process and that no process will report."""
    assert world.host is not None
    living = set(world.host.children().values())
    open_claims = {}
    for entry in world.engine.journal():
        if entry["event"] == "claim":
            open_claims[entry["activity_id"]] = pid_of(entry)
        elif entry["attempt"] is not None:
            open_claims.pop(entry["activity_id"], None)
    return {activity_id for activity_id, pid in open_claims.items() if pid not in living}


@pytest.mark.parametrize("point", KEEPER_POINTS)
def test_a_keeper_that_dies_amid_a_settlement_settles_and_counts_each_activity_at_most_once(
    world: World, tmp_path: Path, point: str
) -> None:
    """SIGKILL as the second of six activities that a dead worker held is judged; the next keeper goes on.

    One that dies between a verdict and its count leaves the count one too low, and no line in the log.
    """
    marker = tmp_path / "struck"
    world.proxy.holds = {"complete"}
    world.submit_work(6, (0.01, 0.02))
    host = world.start_host(processes=1, slots=6, env={VARIABLE: f"{point}:2:SIGKILL:{marker}"})
    eventually(lambda: world.proxy.count("complete")[Fate.HELD] == 6, "six reports in flight")
    world.proxy.holds = set()
    world.kill_a_worker()
    host.wait_for_log("keeper_died")
    assert marker.exists(), "the point was not reached"
    counted = 5 if point == "before_count" else 6
    host.wait_for_log("activity_settled", counted)  # said once it is counted
    totals = eventually(lambda: host.status().get("totals"), "a keeper's answer")
    assert totals["settled_after_crash"] == counted
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert set(world.engine.completions_per_activity().values()) == {1}


def test_without_an_order_a_point_is_nothing() -> None:
    """Every point is the same function, which neither reads the environment nor counts."""
    assert reached is bind("") is id  # which does nothing with what it is given


@pytest.mark.parametrize("order", ["nowhere:1:SIGKILL", "after_claim:1:SIGNOTHING", "after_claim"])
def test_an_order_that_names_nothing_is_refused(order: str) -> None:
    """A test without a crash would prove nothing."""
    with pytest.raises((ValueError, KeyError)):
        bind(order)


def test_every_point_is_passed_somewhere_in_the_worker() -> None:
    """faults.md §2 rule 3: each point must be reached; each test above needs its own."""
    assert set(HANDED_BACK) == set(POINTS)
