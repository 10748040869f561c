"""N31, N13, C22: killers among many waiting activities, kills from outside, and who pays for a crash."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
from chaos.world import every
from harness import eventually

if TYPE_CHECKING:
    from chaos.oracle import Note
    from chaos.world import World
    from harness import Host

APP = "poison_app:registry"
MOST = max(8, 4 * len(os.sched_getaffinity(0)))  # isolates for suspects, on the whole host
OFTEN = {"retry": {"max_attempts": 9, "base_seconds": 1}}
BESIDE = 4  # activities that belong into isolates by themselves, and come when the suspects wait for theirs


def times(attempts: int) -> dict[str, dict[str, int]]:
    return {"retry": {"max_attempts": attempts, "base_seconds": 1}}


class Crowd(NamedTuple):
    """A number of neighbours, and the duration of their second attempt."""

    neighbours: int
    seconds: float


CROWDS = [
    pytest.param(Crowd(40, 0.3), id="40"),
    pytest.param(Crowd(400, 11.0), id="400", marks=pytest.mark.soak),
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("crowd", CROWDS)
def test_a_killer_on_the_loop_dies_alone_the_second_time_and_its_neighbours_start_again_as_usual(
    world: World, crowd: Crowd
) -> None:
    """N13, C22: only the one that was on the loop is a suspect; the neighbours lose one attempt and nothing else."""
    since = time.monotonic()
    host = world.start_host("--poll-max", "100", app=APP, processes=1, slots=600, poison_after=3)
    engine = world.engine
    engine.submit("neighbour", crowd.neighbours, settings=times(2), seconds=crowd.seconds)
    [killer] = engine.submit("kill", 1, settings=OFTEN, neighbours=crowd.neighbours)
    eventually(lambda: world.ended() >= crowd.neighbours + 1, "the end of all", within_s=200)
    print(f"{time.monotonic() - since:.1f} s in all")
    error = str(engine.workflow(killer)["activities"][0]["error"])
    assert "given up after 3 processes died with it" in error
    assert "while the activity was on the loop beside" in error
    assert len(engine.entries("complete")) == crowd.neighbours
    assert (len(host.log("process_died")), len(host.log("isolate_died"))) == (1, 2)
    assert Counter(engine.claims_per_activity().values()) == {2: crowd.neighbours, 3: 1}
    assert not world.notes("in"), "a neighbour ran in an isolate"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("killer", "together"), [("leave_a_thread_that_crashes", 1), ("leave_a_task_that_kills", 2)]
)
def test_what_kills_while_its_handler_waits_is_ended_at_its_third_death_and_no_neighbour_is(
    world: World, killer: str, together: int
) -> None:
    """N13, C22: all are suspects once; few of them run in isolates at once, and others do not wait for them."""
    neighbours = 40
    host = world.start_host("--poll-max", "100", app=APP, processes=1, slots=100, poison_after=3)
    engine = world.engine
    engine.submit("neighbour", neighbours, settings=times(together + 1), seconds=1.0)
    [flow] = engine.submit(killer, 1, settings=OFTEN, neighbours=neighbours)
    eventually(lambda: world.notes("in"), "suspects at work", within_s=60)
    engine.submit("apart", BESIDE, settings=times(2), seconds=0.1)
    watch = Watch(host)
    eventually(lambda: watch.sees(neighbours + 1 + BESIDE, world), "the end of all", within_s=200)
    error = str(engine.workflow(flow)["activities"][0]["error"])
    assert "given up after 3 processes died with it" in error
    assert len(engine.entries("complete")) == neighbours + BESIDE
    assert len(host.log("process_died")) == together
    claims = engine.claims_per_activity()
    assert Counter(claims.values()) == Counter({1: BESIDE}) + Counter({together + 1: neighbours}) + Counter(
        {3: 1}
    )
    strangers = {activity_id for activity_id, count in claims.items() if count == 1}
    outs = world.notes("out")
    assert (
        at_once([note for note in (*world.notes("in"), *outs) if note.activity_id not in strangers]) <= MOST
    )
    assert watch.isolates <= 2 * (MOST + BESIDE), "with those that end, and those that begin"
    assert outs[-1].activity_id not in strangers, "they have not waited for all suspects"


@pytest.mark.timeout(120)
def test_n31_sleepers_of_a_killed_process_start_again_as_usual(world: World) -> None:
    """Two processes, one is killed from outside while its handlers wait: nobody is alone, and nobody is a suspect."""
    sleepers = 60
    host = world.start_host("--poll-max", "100", app=APP, processes=2, slots=100, poison_after=3)
    world.engine.submit("sleep", sleepers, settings=times(2), seconds=3.0)
    eventually(lambda: len(set(world.notes("start"))) == sleepers, "all sleep")
    by_process = Counter(note.pid for note in world.notes("start"))
    victim, held = by_process.most_common(1)[0]
    since = time.monotonic()
    world.kill(victim)
    eventually(lambda: world.ended() == sleepers, "the end of all", within_s=60)
    print(f"all completed {time.monotonic() - since:.1f} s after the kill of {held}")
    assert len(world.engine.entries("complete")) == sleepers
    assert Counter(world.engine.claims_per_activity().values()) == {1: sleepers - held, 2: held}
    assert not world.notes("in")
    assert not host.log("suspect_runs_in_isolate")
    assert {"ran and waited" in line["reason"] for line in host.log("activity_failed")} == {True}


@pytest.mark.timeout(60)
def test_c22_a_handler_in_a_thread_is_a_suspect(world: World) -> None:
    """It may have computed; the loop says nothing of it."""
    host = world.start_host(app=APP, processes=1, slots=4, poison_after=3)
    world.engine.submit("work_in_thread", 1, settings=times(2), number=1, seconds=2.0)
    eventually(lambda: world.notes("start"), "it runs")
    world.kill_a_worker()
    eventually(lambda: host.log("suspect_runs_in_isolate"), "it runs alone", within_s=30)
    assert "ran in a thread" in host.log("activity_failed")[0]["reason"]


@pytest.mark.timeout(60)
def test_n31_an_isolate_that_is_killed_from_outside_while_it_waits_is_not_charged(world: World) -> None:
    """With one death allowed it would be given up at once."""
    host = world.start_host(app=APP, processes=1, slots=4, poison_after=1)
    world.engine.submit("sleep_apart", 1, settings=times(2), seconds=30.0)
    eventually(world.isolates, "it runs")
    note = eventually(lambda: world.notes("start"), "it has begun")[0]
    isolate = world.isolates()[0]
    eventually(lambda: psutil.Process(isolate).status() == psutil.STATUS_SLEEPING, "it waits")
    world.kill(isolate)
    eventually(lambda: world.engine.entries("complete"), "its second attempt", within_s=30)
    assert note.activity_id in world.engine.claims_per_activity()
    assert "ran and waited in it" in host.log("activity_failed")[0]["reason"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_n31_fifty_kills_of_processes_that_hold_sleepers_end_none_as_poison(world: World) -> None:
    """Workers and the isolates of suspects in turn; whoever is hit nine times has used up its attempts."""
    host = world.start_host("--poll-max", "100", app=APP, processes=2, slots=200, poison_after=3)
    world.submitted |= set(world.engine.submit("sleep", 360, settings=OFTEN, seconds=3.0))
    eventually(lambda: world.notes("start"), "work")

    def strike() -> None:
        if len(world.deaths) < 50:
            pids = sorted({*host.children().values(), *world.isolates()})
            world.kill(world.rng.choice(pids))

    world.until_done(500, every(0.7, strike))
    assert len(world.deaths) == 50
    assert world.ended() == 360
    codes = Counter(line["code"] for line in host.log("activity_failed"))
    print(codes)
    assert codes["POISON"] == 0


def at_once(notes: list[Note]) -> int:
    """The most attempts that ran in isolates at the same time, by their own notes."""
    most, running = 0, set()
    for note in sorted(notes, key=lambda note: note.at_s):
        if note.event == "in":
            running.add(note.activity_id)
        else:
            running.discard(note.activity_id)
        most = max(most, len(running))
    return most


class Watch:
    """Looks at a host's isolates while it waits."""

    def __init__(self, host: Host) -> None:
        self._supervisor = psutil.Process(host.pid)
        self.isolates = 0
        self.megabytes = 0.0

    def __str__(self) -> str:
        return f"at most {self.isolates} isolates with {self.megabytes:.0f} MB of their own"

    def sees(self, ends: int, world: World) -> bool:
        """Looks once; True if this many activities have ended."""
        found = []
        for process in self._supervisor.children():
            try:
                if "isolate" in " ".join(process.cmdline()):
                    found.append(process.memory_full_info().uss)
            except psutil.Error:
                continue
        self.isolates = max(self.isolates, len(found))
        self.megabytes = max(self.megabytes, sum(found) / 1e6)
        return world.ended() >= ends
