"""N13, C22: one killer among many in one process, and the cost of the suspects of its first crash."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest
from harness import eventually

if TYPE_CHECKING:
    from chaos.oracle import Note
    from chaos.world import World
    from harness import Host

APP = "poison_app:registry"
MOST = max(8, 4 * len(os.sched_getaffinity(0)))  # isolates for suspects, on the whole host
TWICE = {"retry": {"max_attempts": 2, "base_seconds": 1}}
OFTEN = {"retry": {"max_attempts": 9, "base_seconds": 1}}
BESIDE = 4  # activities that belong into isolates by themselves, and come when the suspects wait for theirs


class Crowd(NamedTuple):
    """A number of neighbours and their duration."""

    neighbours: int
    seconds: float


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param(Crowd(40, 0.3), id="40"),
        pytest.param(Crowd(400, 1.0), id="400", marks=pytest.mark.soak),
    ],
)
def test_a_killer_among_many_dies_alone_the_second_time_and_its_neighbours_complete(
    world: World, crowd: Crowd
) -> None:
    """N13: two attempts suffice for neighbours, few isolates run for suspects at once, and no others wait."""
    since = time.monotonic()
    host = world.start_host("--poll-max", "100", app=APP, processes=1, slots=600, poison_after=3)
    engine = world.engine
    engine.submit("neighbour", crowd.neighbours, settings=TWICE, seconds=crowd.seconds)
    [killer] = engine.submit("kill", 1, settings=OFTEN, neighbours=crowd.neighbours)
    eventually(lambda: world.notes("in"), "suspects at work", within_s=30)
    engine.submit("apart", BESIDE, settings=TWICE, seconds=0.1)
    watch = Watch(host)
    everybody = crowd.neighbours + 1 + BESIDE
    eventually(lambda: watch.sees(everybody, world), "the end of all", within_s=200)
    print(f"{watch}; {len(host.log('process_died'))} death, {time.monotonic() - since:.1f} s in all")

    poison = engine.workflow(killer)["activities"][0]
    assert str(poison["error"]).count("its isolate was killed by SIGKILL") >= 1
    assert len(engine.entries("complete")) == crowd.neighbours + BESIDE
    assert len(host.log("process_died")) == 1, "the killer is alone at its second death"
    claims = engine.claims_per_activity()
    assert Counter(claims.values()) == {1: BESIDE, 2: crowd.neighbours, 3: 1}

    strangers = {activity_id for activity_id, count in claims.items() if count == 1}
    outs = world.notes("out")
    assert (
        at_once([note for note in (*world.notes("in"), *outs) if note.activity_id not in strangers]) <= MOST
    )
    assert watch.isolates <= 2 * (MOST + BESIDE), "with those that end, and those that begin"
    assert outs[-1].activity_id not in strangers, "they have not waited for all suspects"


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
