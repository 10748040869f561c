"""Checks a run by the engine's journal and the handlers' own notes, independently of the code under test."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Entry = dict[str, Any]
OUTAGE_SLACK_S = 5.0  # a lease of 3 s, and a sweep that is a second late
READ_S = 1.0  # from a reply's arrival to its records, on a busy machine too
IN_A_REPLY = "process killed with a poll's reply on its way"  # C2
FREEZE_S = 2.0  # of a lease of 3 s: what is left of it may be too short for a beat on a busy machine


@dataclass(frozen=True, slots=True)
class Note:
    """A line written by a handler."""

    at_s: float
    event: str
    activity_id: str
    pid: int
    digest: str


def read_notes(path: Path) -> list[Note]:
    """The handlers' lines, in the order in which they were written."""
    notes = []
    for line in path.read_text().splitlines() if path.exists() else []:
        at_s, event, activity_id, pid, digest = line.split()
        notes.append(Note(float(at_s), event, activity_id, int(pid), digest))
    return notes


@dataclass
class Facts:
    """What happened. Times are wall-clock seconds.

    Attributes:
        journal: the engine's.
        rows: the engine's queue at the end.
        outputs: the digest the engine holds, by activity.
        killers: those of `submitted` whose handler kills its process.
        errors: what the engine says of activities that have failed, by workflow.
        notes: the handlers'.
        deaths: when a process was killed, by pid.
        outages: when the engine was away, from and to.
        freezes: who was stopped, from and to.
        isolate_victims: what ran in isolates that were killed.
        apart: what ran in isolates, with the worker it ran for.
        lost_polls: the worker_ids of polls whose reply did not arrive.
        answered: when the reply to a poll was passed on, by its worker_id.
        submitted: the workflows.
        budget: how many may run at a time.

    """

    journal: list[Entry]
    rows: list[Entry]
    outputs: dict[str, str]
    notes: list[Note]
    submitted: set[str]
    budget: int
    killers: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    deaths: dict[int, float] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    freezes: list[tuple[int, float, float]] = field(default_factory=list)
    isolate_victims: set[str] = field(default_factory=set)
    apart: set[tuple[str, int]] = field(default_factory=set)
    lost_polls: set[str] = field(default_factory=set)
    answered: dict[str, float] = field(default_factory=dict)

    @cached_property
    def _accepted(self) -> Counter[str]:
        return Counter(
            e["activity_id"] for e in self.journal if e["event"] == "complete" and e["attempt"] is not None
        )

    @cached_property
    def _lapses(self) -> dict[tuple[str, str], float]:
        """Times at which leases ended without a heartbeat or report."""
        return {_claim_of(e): e["at_s"] for e in self.journal if e["event"] == "lapse"}

    @cached_property
    def _handed_back(self) -> set[tuple[str, str]]:
        return {_claim_of(e) for e in self.journal if e["event"] == "fail" and e["attempt"]}

    @cached_property
    def _beaten(self) -> set[tuple[str, str]]:
        return {_claim_of(e) for e in self.journal if e["event"] == "heartbeat"}

    # I1 to I5; each is a list of complaints

    def lost(self) -> list[str]:
        """I1: not ended, or ended twice, or ended as failed."""
        found = [
            f"{row['activity_id']} is {row['status']}: {self.errors.get(row['workflow_id'])}"
            for row in self.rows
            if row["status"] != ("failed" if row["workflow_id"] in self.killers else "completed")
        ]
        ends = Counter(e["activity_id"] for e in self.journal if e["verdict"] == "failed") + self._accepted
        found += [f"{activity_id} ended {count} times" for activity_id, count in ends.items() if count != 1]
        missing = self.submitted - {row["workflow_id"] for row in self.rows}
        return found + [f"{workflow} has no activity" for workflow in missing]

    def misjudged(self) -> list[str]:
        """Healthy activities given up as poison, and poison not given up after three deaths."""
        given_up = {id_ for id_, error in self.errors.items() if "given up after 3 processes died" in error}
        return [f"{id_}: {self.errors.get(id_)}" for id_ in given_up ^ self.killers]

    def taken_down_twice(self) -> list[str]:
        """Healthy activities that lost two attempts to crashes of others; poison may cost one.

        A crash of a process with one activity counts as its own; an activity in an isolate runs alone.
        """
        of_killers = {row["activity_id"] for row in self.rows if row["workflow_id"] in self.killers}
        running: dict[int, set[str]] = defaultdict(set)
        for note in self.notes:
            if (note.activity_id, note.pid) in self.apart:
                continue
            if note.event == "start":
                running[note.pid].add(note.activity_id)
            else:
                running[note.pid].discard(note.activity_id)
        shared = Counter(id_ for pid in self.deaths if len(running[pid]) > 1 for id_ in running[pid])
        return [
            f"{id_}: {n}" for id_, n in shared.items() if self.killers and n > 1 and id_ not in of_killers
        ]

    def accepted_twice(self) -> list[str]:
        """I2."""
        return [f"{activity_id}: {count}" for activity_id, count in self._accepted.items() if count > 1]

    def wrong_outputs(self) -> list[str]:
        """I3: an output that no handler returned for this activity."""
        returned = defaultdict(set)
        for note in self.notes:
            if note.event == "end" and note.digest != "-":
                returned[note.activity_id].add(note.digest)
        return [id_ for id_, digest in self.outputs.items() if digest not in returned[id_]]

    def repeats(self) -> Iterator[tuple[Entry, Entry]]:
        """Yields each repeated claim with the earlier claim of the same activity."""
        earlier: dict[str, Entry] = {}
        for entry in self.journal:
            if entry["event"] == "claim":
                if (before := earlier.get(entry["activity_id"])) is not None:
                    yield before, entry
                earlier[entry["activity_id"]] = entry

    def explanations(self) -> Counter[str]:
        """Counts the reasons for repeated claims; the key '' counts those without one."""
        return Counter(self._why(before, again) for before, again in self.repeats())

    def unexplained(self) -> list[str]:
        """I4: claimed or run again without a fault, or run without a claim."""
        found = [
            f"{again['activity_id']} of {before['worker_id']} at {before['at_s']:.3f}, "
            f"again at {again['at_s']:.3f} to {again['worker_id']}"
            for before, again in self.repeats()
            if not self._why(before, again)
        ]
        return found + list(self._unclaimed_starts())

    def _unclaimed_starts(self) -> Iterator[str]:
        """Each start without a claim: one made for its process, or for one that had died without beginning it."""
        claims: dict[str, list[int]] = defaultdict(list)
        for entry in self.journal:
            if entry["event"] == "claim":
                claims[entry["activity_id"]].append(pid_of(entry))
        starts = [note for note in self.notes if note.event == "start"]
        own = [note for note in starts if _taken(claims[note.activity_id], {note.pid})]
        for note in starts:
            dead = {pid for pid, at_s in self.deaths.items() if at_s <= note.at_s}
            if note not in own and not _taken(claims[note.activity_id], dead):
                yield f"{note.activity_id} started by {note.pid} at {note.at_s:.3f} without a claim"

    def _why(self, before: Entry, again: Entry) -> str:
        key = _claim_of(before)
        died_at = self.deaths.get(pid_of(before), math.inf)
        if key in self._handed_back and died_at <= again["at_s"]:
            return "process killed"
        is_unknown = key not in self._handed_back | self._beaten
        if is_unknown and died_at < min(again["at_s"], self._known_by(before)):
            return IN_A_REPLY
        if before["worker_id"] in self.lost_polls:
            return "poll reply lost"
        if before["activity_id"] in self.isolate_victims and key in self._handed_back:
            return "isolate killed"
        if key not in self._handed_back and any(
            before["at_s"] - 1 < to and since < self._lapses.get(key, again["at_s"]) < to + OUTAGE_SLACK_S
            for since, to in self.outages
        ):
            return "engine restarted"
        return "frozen with a poll's reply unread" if self._was_unread(before) else ""

    def _known_by(self, claim: Entry) -> float:
        """The time by which its process has a record of a claim; until then nobody could hand it back (C2)."""
        answered_at = self.answered.get(claim["worker_id"], math.inf)
        stops = [(since, to) for pid, since, to in self.freezes if pid == pid_of(claim)]
        return max([answered_at, *(to for since, to in stops if since < answered_at + READ_S)]) + READ_S

    def _was_unread(self, claim: Entry) -> bool:
        """True if its process was stopped before it read the claim, and resumed when the lease was nearly over."""
        activity_id, pid, at_s = claim["activity_id"], pid_of(claim), claim["at_s"]
        starts = [
            note.at_s
            for note in self.notes
            if note.event == "start" and (note.activity_id, note.pid) == (activity_id, pid)
        ]
        return any(
            who == pid and at_s + FREEZE_S < to <= min(starts, default=to) and since < at_s + FREEZE_S
            for who, since, to in self.freezes
        )

    def most_running(self) -> int:
        """I5: the most handlers that ran at a time; those of a killed process end with it."""
        events = [(note.at_s, note.event, note) for note in self.notes]
        running: dict[tuple[str, int], Note] = {}
        deaths = sorted((at_s, pid) for pid, at_s in self.deaths.items())
        most = 0
        for at_s, event, note in events:
            while deaths and deaths[0][0] <= at_s:
                _, dead = deaths.pop(0)
                running = {key: n for key, n in running.items() if n.pid != dead}
            key = (note.activity_id, note.pid)
            if event == "end":
                running.pop(key, None)
            elif note.pid not in self.deaths or at_s < self.deaths[note.pid]:
                running[key] = note
            most = max(most, len(running))
        return most

    def tail(self) -> str:
        """The last lines of the engine's journal, for a failure's text (rule 9)."""
        return "\n".join(map(str, self.journal[-50:]))


def _taken(claims: list[int], pids: set[int]) -> bool:
    """Takes the first claim of one of these processes away; False if there is none."""
    found = next((pid for pid in claims if pid in pids), None)
    if found is not None:
        claims.remove(found)
    return found is not None


def _claim_of(entry: Entry) -> tuple[str, str]:
    return entry["activity_id"], entry["worker_id"]


def pid_of(entry: Entry) -> int:
    """Returns the pid in a worker_id, `<id>-<pid>-<nonce>-<n>`."""
    return int(entry["worker_id"].rsplit("-", 3)[1])


def bound(events: int) -> str:
    """Returns the bound that zero events in N tries prove: 3/N, with 95 % confidence."""
    return f"≤ {min(100.0, 300 / events):.2g} % (95 %)" if events else "no tries"


def median_and_most(values: Iterable[float]) -> str:
    """Formats times as in the scorecard."""
    ordered = sorted(values)
    if not ordered:
        return "none"
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return (
        f"p50 {ordered[len(ordered) // 2]:.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s of {len(ordered)}"
    )
