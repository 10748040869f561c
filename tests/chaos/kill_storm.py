"""A long queue while workers, keepers and supervisors are killed, at random times and at stores, and its figures."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from chaos.measures import Row
from chaos.world import World
from harness import eventually

from flowherd.crashpoints import ADOPTER_POINTS, ADOPTION_POINTS, KEEPER_POINTS, POINTS, VARIABLE
from flowherd_supervisor.testkit.programs import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.measures import Scale
    from chaos.oracle import Note
    from harness import Host

SLOTS = 96
ONE_AT_A_TIME = "[activities.work]\nmax_concurrent = 12\n\n[activities.work_in_thread]\nmax_concurrent = 12\n"
STRIKE_EVERY_S = 0.4
KEEPER_SPARED_S = 7.0  # three exits in 10 s make a host drain by design
LIVES_S = (4.0, 9.0)  # of a supervisor
_RAN = re.compile("while the activity (ran|was on the loop)")
LOG_LAG_S = 0.5  # a death at a named point is known by the line in the log, which comes a little later
ALL_POINTS = (*POINTS, *ADOPTER_POINTS, *KEEPER_POINTS, *ADOPTION_POINTS)


@dataclass
class Tally:
    """What was done, and what must be empty.

    Attributes:
        counts: of activities, claims, kills and the like.
        begun_twice: begun again although the process that had begun it was alive and had not stopped it.
        lost: not completed in the end.
        accepted_twice: of which the engine accepted two results.
        unbegun: failed although it had not begun, while its host had a supervisor.

    """

    counts: Counter[str]
    begun_twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    accepted_twice: list[str] = field(default_factory=list)
    unbegun: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """True if nothing was found."""
        return not (self.begun_twice or self.lost or self.accepted_twice or self.unbegun)

    def __str__(self) -> str:
        found = {
            "begun twice": self.begun_twice,
            "lost": self.lost,
            "accepted twice": self.accepted_twice,
            "requeued unbegun": self.unbegun,
        }
        told = ", ".join(f"{name} {len(those)} {those[:5] or ''}".strip() for name, those in found.items())
        return f"{told} — of {', '.join(f'{count} {name}' for name, count in self.counts.items())}"


def killed_everywhere(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M1k: nothing begins twice, is lost or accepted twice, and what had not begun is not requeued."""
    with World(folder, seed=seed, lease_s=5.0) as world:
        tally = KillStorm(world).run(scale.noops, within_s=900)
    return [Row("M1k", "soak: killed everywhere", str(tally), "0 of everything", tally.is_good)]


class KillStorm:
    """Hosts, one after the other, over one queue.

    Args:
        world: with its engine; its random numbers choose the victims.

    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self.counts: Counter[str] = Counter()
        self._dead_at: dict[int, float] = {}
        self._orphaned: list[tuple[float, float]] = []  # from a supervisor's kill to the end of its processes
        self._struck_at_its_first_step: dict[str, list[float]] = defaultdict(list)
        self._keeper_struck_at = 0.0
        self._settings = world.folder / "flowherd.toml"
        self._settings.write_text(ONE_AT_A_TIME)

    def run(self, activities: int, within_s: float) -> Tally:
        """Queues activities and kills until all have ended, at most `within_s` seconds; returns what came of it."""
        world, give_up_at = self._world, time.monotonic() + within_s
        retry = {"retry": {"max_attempts": 100, "base_seconds": 0}}
        for name in ("work", "work_in_thread"):
            flows = world.engine.submit(name, activities // 2, settings=retry, number=0, seconds=0.02)
            world.submitted |= set(flows)
        while not self._is_done() and time.monotonic() < give_up_at:
            self._one_host()
        return self._tally()

    def _is_done(self) -> bool:
        return self._world.ended() >= len(self._world.submitted)

    def _one_host(self) -> None:
        """A host from its start to the kill of its supervisor, or to the end of the queue."""
        self.counts["hosts"] += 1
        point, times = self._rng.choice(ALL_POINTS), self._rng.randint(1, 40)
        marker = self._world.folder / f"struck-{self.counts['hosts']}"
        env = {VARIABLE: f"{point}:{times}:SIGKILL:{marker}"}
        try:
            host = self._world.start_host(
                *("--config", str(self._settings), "--max-restarts", "0", "--graceful-timeout", "1"),
                processes=4,
                slots=SLOTS,
                env=env,
                past_the_proxy=True,
                name=f"host-{self.counts['hosts']}",
            )
        except ProgramError:  # the point has struck before it was ready: three keepers' deaths, say
            host = self._world.host
        assert host is not None
        ends_at = time.monotonic() + self._rng.uniform(*LIVES_S)
        while not self._is_done() and time.monotonic() < ends_at and host.process.poll() is None:
            self._strike(host)
            time.sleep(STRIKE_EVERY_S)  # between strikes: nothing waits for it
        self._end(host)
        self.counts["kills at a named point"] += marker.exists()
        self._note_ends(host)

    def _strike(self, host: Host) -> None:
        chance, workers = self._rng.random(), sorted(host.children().values())
        if chance < 0.15 and time.monotonic() - self._keeper_struck_at > KEEPER_SPARED_S:
            self._keeper_struck_at = time.monotonic()
            self.counts["keeper kills"] += 1
            self._world.kill(host.keeper())
        elif chance < 0.25:
            self.counts["kills of all workers at once"] += 1
            for pid in workers:
                self._kill_worker(pid)
        elif chance < 0.35 and host.process.poll() is None:
            self.counts["reloads"] += 1
            host.signal(signal.SIGHUP)
        elif workers:
            self._kill_worker(self._rng.choice(workers))

    def _kill_worker(self, pid: int) -> None:
        self.counts["worker kills"] += 1
        self._dead_at[pid] = self._world.kill(pid)

    def _end(self, host: Host) -> None:
        since_s = time.time()
        if not self._is_done() and host.process.poll() is None:
            self.counts["supervisor kills"] += 1
            os.kill(host.pid, signal.SIGKILL)
            host.process.wait()
        else:
            host.stop()
        eventually(lambda: not host.tree(), "all processes of a host end")
        self._orphaned.append((since_s, time.time()))

    def _note_ends(self, host: Host) -> None:
        """Of what has died without our hand, from its log; all others have ended with their supervisor."""
        started: set[int] = set()
        for line in host.log():
            at_s = datetime.fromisoformat(line["time"]).timestamp() if "time" in line else 0.0
            match line.get("event"):
                case "activity_failed" if _RAN.search(line["reason"]):
                    self._struck_at_its_first_step[line["activity_id"]].append(at_s)
                case "process_died" | "process_exited":
                    self._dead_at.setdefault(line["pid"], at_s - LOG_LAG_S)
                case "activity_adopted":
                    self.counts["adopted"] += 1
                case "internal_error" | "segment_unreadable":
                    self.counts["internal errors"] += 1
                case "process_started":
                    started.add(line["pid"])
                case _:
                    continue
        for pid in started:
            self._dead_at.setdefault(pid, self._orphaned[-1][1])

    # What came of it

    def _tally(self) -> Tally:
        engine, starts = self._world.engine, self._by_activity("start")
        rows = engine.http.get("/__test__/activities").json()["activities"]
        self.counts["activities"] = len(self._world.submitted)
        self.counts["claims"] = len(engine.entries("claim"))
        self.counts["begun"] = sum(map(len, starts.values()))
        self.counts["leases ended by time"] = sum(e["event"] == "lapse" for e in engine.journal())
        accepted = engine.completions_per_activity()
        unbegun = list(self._unbegun(starts))
        self.counts["requeued unbegun as a host ended"] = sum(is_end for _, is_end in unbegun)
        return Tally(
            self.counts,
            begun_twice=list(self._begun_twice(starts)),
            lost=[f"{row['activity_id']} is {row['status']}" for row in rows if row["status"] != "completed"],
            accepted_twice=[activity_id for activity_id, count in accepted.items() if count > 1],
            unbegun=[text for text, is_end in unbegun if not is_end],
        )

    def _by_activity(self, event: str) -> dict[str, list[Note]]:
        found: dict[str, list[Note]] = defaultdict(list)
        for note in self._world.notes(event):
            found[note.activity_id].append(note)
        return found

    def _begun_twice(self, starts: dict[str, list[Note]]) -> Iterator[str]:
        ends = {(note.activity_id, note.pid): note for note in self._world.notes("end")}
        for activity_id, runs in starts.items():
            for before, again in pairwise(sorted(runs, key=lambda note: note.at_s)):
                stopped = ends.get((activity_id, before.pid))
                was_stopped = stopped is not None and stopped.digest == "-" and stopped.at_s <= again.at_s
                if not was_stopped and self._dead_at.get(before.pid, again.at_s + 1) > again.at_s:
                    yield f"{activity_id} by {before.pid} at {before.at_s:.3f} and {again.pid} at {again.at_s:.3f}"

    def _unbegun(self, starts: dict[str, list[Note]]) -> Iterator[tuple[str, bool]]:
        """Each claim that was failed before it had begun, and whether its host was ending.

        A handler that was struck before it could write its note had begun, as its record said.
        """
        claimed_at: dict[tuple[str, str], float] = {}
        for entry in self._world.engine.journal():
            key = entry["activity_id"], entry["worker_id"]
            if entry["event"] == "claim":
                claimed_at[key] = entry["at_s"]
            elif _is_requeue(entry) and key in claimed_at:
                since, to = claimed_at[key], entry["at_s"]
                has_begun = any(since <= note.at_s <= to for note in starts.get(key[0], ()))
                struck = self._struck_at_its_first_step[key[0]]
                if not has_begun and not any(since <= at_s <= to + LOG_LAG_S for at_s in struck):
                    is_end = any(begin - 1 <= to <= end + 1 for begin, end in self._orphaned)
                    yield f"{key[0]} of {key[1]} at {to:.3f}: {entry.get('error')}", is_end


def _is_requeue(entry: dict[str, Any]) -> bool:
    return entry["event"] == "fail" and entry["attempt"] is not None
