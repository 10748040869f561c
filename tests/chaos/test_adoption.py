"""A killed process costs what it had not begun nothing: another one goes on with it (C3)."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from chaos.oracle import IN_A_REPLY, pid_of
from chaos.world import World
from harness import eventually

from flowherd.crashpoints import ADOPTER_POINTS, ADOPTION_POINTS, VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fork
ONE_AT_A_TIME = "[activities.work]\nmax_concurrent = 1\n"
KILLS = 5


def _submit(world: World, count: int) -> None:
    once = {"retry": {"max_attempts": 1}}
    world.submitted |= set(world.engine.submit("work", count, settings=once, number=0, seconds=0.4))


def _running(world: World) -> tuple[str, int]:
    """The activity that has begun last and has not ended, and the process that runs it."""

    def found() -> tuple[str, int] | None:
        last = world.notes("start")[-1:]
        ended = {(note.activity_id, note.pid) for note in world.notes("end")}
        return next(((n.activity_id, n.pid) for n in last if (n.activity_id, n.pid) not in ended), None)

    running = eventually(found, "one that runs")
    assert isinstance(running, tuple)
    return running


def _all_claimed(world: World, count: int) -> None:
    """Waits until the processes know of all their claims: what is in a reply comes back with its lease alone (C2)."""
    host = world.host
    assert host is not None
    eventually(lambda: host.status()["totals"]["claimed"] == count, "all claimed")


def _fullest(world: World) -> int:
    """The process that holds most, and so several that have not begun."""
    assert world.host is not None
    return max(world.host.status()["children"], key=lambda row: row["in_flight"])["pid"]


def _host(world: World, tmp_path: Path, *flags: str, **env: str) -> None:
    settings = tmp_path / "flowherd.toml"
    settings.write_text(ONE_AT_A_TIME)
    world.start_host("--config", str(settings), "--poll-max", "8", *flags, processes=2, slots=24, env=env)


def test_five_kills_of_processes_that_hold_waiting_activities_cost_only_what_had_begun(
    world: World, tmp_path: Path
) -> None:
    """C3: one runs and the others wait; each of these is claimed once, however often its process dies."""
    _submit(world, 16)  # no retry, which could be on its way to a process when that is killed (C2)
    _host(world, tmp_path)
    _all_claimed(world, 16)
    for _ in range(KILLS):
        activity_id, pid = _running(world)
        world.kill(pid)
        eventually(lambda: _running(world)[0] != activity_id, "the next one begins")  # noqa: B023 - within the turn
    eventually(lambda: world.ended() == 16, "all have ended", within_s=40)
    failed = Counter(entry["activity_id"] for entry in world.engine.entries("fail"))
    assert failed == _broken_off(world)
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert len(world.engine.completions_per_activity() + failed) == 16
    assert world.host is not None
    assert world.host.log("activity_adopted")
    assert not world.facts(24).unexplained()


def test_a_retry_in_a_reply_to_a_process_that_is_killed_is_told_from_a_claim_that_was_forgotten(
    tmp_path: Path,
) -> None:
    """C4, then C2: claimed twice and failed once until the lease ends; the judge names both reasons."""
    with World(tmp_path) as world:
        world.start_host(processes=2, slots=2)
        retry = {"retry": {"max_attempts": 3, "base_seconds": 0}}
        world.submitted = set(world.engine.submit("work", 1, settings=retry, number=0, seconds=2.0))
        _, pid = _running(world)
        world.proxy.refuses = {"poll"}
        world.kill(pid)
        world.engine.wait_for("fail", 1)
        world.proxy.holds, world.proxy.refuses = {"poll"}, set()
        world.kill(pid_of(world.engine.wait_for("claim", 2)[-1]))
        world.proxy.holds = set()
        world.until_done(30)
        facts = world.facts(4)
        assert facts.explanations() == {"process killed": 1, IN_A_REPLY: 1}
        assert len(world.engine.entries("fail")) == 1
        assert not facts.lost() + facts.unexplained() + facts.accepted_twice()


_POINTS = (*ADOPTION_POINTS, *ADOPTER_POINTS[:3])
_ALWAYS = {"after_decision", "after_adopting"}


@pytest.mark.parametrize(
    "point",
    [pytest.param(point, marks=() if point in _ALWAYS else pytest.mark.soak) for point in _POINTS],
)
def test_whoever_dies_amid_an_adoption_costs_nothing_either(world: World, tmp_path: Path, point: str) -> None:
    """C3: a keeper or an adopter that is killed at a store; with one attempt each, whatever has not begun completes."""
    marker = tmp_path / "struck"
    _submit(world, 10)
    _host(world, tmp_path, **{VARIABLE: f"{point}:2:SIGKILL:{marker}"})
    _all_claimed(world, 10)
    world.kill(_fullest(world))
    eventually(marker.exists, "the point was not reached")
    eventually(lambda: world.ended() == 10, "all have ended", within_s=40)
    begun = Counter(note.activity_id for note in world.notes("start"))
    assert len(begun) == 10, "something has failed that had not begun"
    assert set(begun.values()) == {1}
    assert set(world.engine.claims_per_activity().values()) == {1}
    completed = world.engine.completions_per_activity()
    assert set(completed.values()) == {1}
    assert set(begun) - set(completed) == set(_broken_off(world))


def _broken_off(world: World) -> Counter[str]:
    """How often each activity has begun and not ended: its process was killed."""
    ended = {(note.activity_id, note.pid) for note in world.notes("end")}
    return Counter(n.activity_id for n in world.notes("start") if (n.activity_id, n.pid) not in ended)


@pytest.mark.soak
@pytest.mark.parametrize("order", ["reload", "scale"])
def test_a_process_that_is_replaced_leaves_what_it_has_not_begun_to_others(
    world: World, tmp_path: Path, order: str
) -> None:
    """P6: its drain ends long before its queue does; with one attempt each, all of them begin."""
    _submit(world, 16)
    _host(world, tmp_path, "--graceful-timeout", "1")
    _all_claimed(world, 16)
    assert world.host is not None
    if order == "reload":
        world.host.signal(signal.SIGHUP)
        world.host.wait_for_log("reloaded")
    else:
        world.host.signal(signal.SIGTTOU)
        world.host.wait_for_log("scaling")
    eventually(lambda: world.ended() == 16, "all have ended", within_s=40)
    begun = Counter(note.activity_id for note in world.notes("start"))
    assert (len(begun), set(begun.values())) == (16, {1}), "something has failed that had not begun"
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert world.host.log("activity_adopted")
