"""N13, C22: one killer among many in one process, and how much the suspects of its first death cost the host."""

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


class Crowd(NamedTuple):
    """So many neighbours, of whom each needs so long."""

    neighbours: int
    seconds: float


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param(Crowd(40, 0.2), id="40"),
        pytest.param(Crowd(400, 1.0), id="400", marks=pytest.mark.soak),
    ],
)
def test_a_killer_among_many_dies_alone_the_second_time_and_its_neighbours_complete(
    world: World, crowd: Crowd
) -> None:
    """N13: two attempts suffice for the neighbours, and few isolates run for suspects at once."""
    since = time.monotonic()
    host = world.start_host("--poll-max", "100", app=APP, processes=1, slots=600, poison_after=3)
    world.engine.submit("neighbour", crowd.neighbours, settings=TWICE, seconds=crowd.seconds)
    [killer] = world.engine.submit("kill", 1, settings=OFTEN, neighbours=crowd.neighbours)
    watch = Watch(host)
    eventually(lambda: watch.sees(crowd.neighbours + 1, world), "the end of all", within_s=200)
    took_s = time.monotonic() - since
    print(f"{watch}; deaths {len(host.log('process_died'))}, {took_s:.1f} s in all")
    [step] = world.engine.workflow(killer)["activities"]
    assert "its isolate was killed by SIGKILL" in str(step["error"])
    claims = world.engine.claims_per_activity()
    attempts = claims.pop(step["activity_id"]) if "activity_id" in step else max(claims.values())
    assert attempts == 3
    assert max(Counter(claims).values()) <= 3
    assert len(world.engine.entries("complete")) == crowd.neighbours
    assert at_once(world) <= MOST
    assert watch.isolates <= 2 * MOST, "also those that end, and those that begin"


def at_once(world: World, activity_ids: set[str] | None = None) -> int:
    """The most attempts that ran in isolates at the same time, by their own notes; of these activities or of all."""
    most, running = 0, 0
    for note in sorted(world.notes("in") + world.notes("out"), key=lambda note: note.at_s):
        if activity_ids is None or note.activity_id in activity_ids:
            running += {"in": 1, "out": -1}[note.event]
            most = max(most, running)
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
        """Looks once; whether so many activities have ended."""
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
