"""The costs of activities, as a shared table of names and numbers.

Each incarnation of a worker has a table of its own, and the host has one more for the incarnations that have ended. An
entry is one activity in one place (loop, thread or isolate), because their measurements are not comparable. All numbers
are doubles, one aligned store each; readers may see one number of an entry before another, which sums tolerate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import isfinite
from typing import TYPE_CHECKING

from flowherd.ledger.activity_counts import OTHER, ActivityCounts, Counts, area_bytes
from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed
from flowherd.ledger.histogram import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRIES = 64  # activities of one app; further ones are not measured
STEP_BUCKETS = 24  # of CPU time per step: the first ends at 1 µs, each further one at twice the one before


class Where(IntEnum):
    """The place where an entry's handler runs."""

    LOOP = 1
    THREAD = 2
    PROCESS = 3


class Metric(IntEnum):
    """Numbers of an entry; all are sums, except WHERE and the two maxima."""

    WHERE = 0
    ATTEMPTS = 1  # ended attempts, sampled or not
    SAMPLES = 2  # sampled attempts, over which the next five are sums
    CPU_S = 3
    WALL_S = 4  # without the time in which other handlers had the loop
    WAIT_S = 5  # the part of WALL_S spent off the loop or, in a thread, off the CPU
    GROWTH_BYTES = 6  # of resident memory, over samples that ran alone
    ALONE = 7
    KEPT_S = 8  # seconds on the loop, over all attempts
    LONGEST_BLOCK_S = 9
    PROBES = 10  # probes of the GIL while a handler of it was running
    RELEASED = 11  # probes that got the GIL at once
    LONGEST_HOLD_S = 12  # of the GIL, as seen by the probes
    STEP_CPU = 16  # the first of STEP_BUCKETS: steps of samples, by their CPU time
    LONG_STEPS = STEP_CPU + STEP_BUCKETS  # the first of BOUNDS: seconds in long steps, by their length


class Load(IntEnum):
    """Numbers of a whole worker, over the time in which it had a handler."""

    ENTRIES = 0
    ACTIVE_S = 1
    BUSY_S = 2  # of the loop
    CPU_S = 3  # of the loop's thread
    FULL_S = 4  # without a free slot
    LATE = 8  # the first of BOUNDS: seconds, by the lag of the loop


FIGURES = Metric.LONG_STEPS + BOUNDS
LOADS = Load.LATE + BOUNDS
_PLACES = frozenset(map(float, Where))
_LEAST, _MOST = -(2.0**50), 2.0**52  # released memory counts as negative growth
_LONGEST = (Metric.LONGEST_BLOCK_S, Metric.LONGEST_HOLD_S)
_NAME_AREA = 256  # bytes; a longer name is cut
_NAME_BYTES = _NAME_AREA - CHECKSUM.size
_NAMES_AT = 8 * (LOADS + ENTRIES * FIGURES)
_COUNTS_AT = _NAMES_AT + ENTRIES * _NAME_AREA
_OTHER = ENTRIES  # the entry for activities without one of their own
AREA_BYTES = _COUNTS_AT + area_bytes(ENTRIES + 1)


@dataclass(frozen=True, slots=True)
class Work:
    """A copy of one table, or the sum of several: entries by name and place, and the load."""

    load: tuple[float, ...] = (0.0,) * LOADS
    entries: dict[tuple[str, Where], tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def sum_of(cls, parts: Iterable[Work]) -> Work:
        """Returns the sum of all parts."""
        load = [0.0] * LOADS
        entries: dict[tuple[str, Where], tuple[float, ...]] = {}
        for part in parts:
            load = [mine + its for mine, its in zip(load, part.load, strict=True)]
            for key, figures in part.entries.items():
                entries[key] = _added(entries[key], figures) if key in entries else figures
        return cls(tuple(load), entries)


class WorkTable:
    """A table of costs, written by a single process.

    Args:
        area: `AREA_BYTES` of the shared map.

    """

    def __init__(self, area: memoryview) -> None:
        self._cells = area[:_NAMES_AT].cast("d")
        self._names = area[_NAMES_AT:_COUNTS_AT]
        self.counts = ActivityCounts(area[_COUNTS_AT:AREA_BYTES])

    @classmethod
    def private(cls) -> WorkTable:
        """Returns a table in private memory."""
        return cls(memoryview(bytearray(AREA_BYTES)))

    def __repr__(self) -> str:
        return f"<WorkTable {', '.join(name for name, _ in self.read().entries) or 'empty'}>"

    def clear(self) -> None:
        """Clears the table; for its writer only."""
        for cell in range(LOADS):
            self._cells[cell] = 0.0
        self.counts.clear(_OTHER)

    def add(self, name: str, where: Where) -> int | None:
        """Adds an entry and returns its index, None when the table is full; for its writer only."""
        index = self._count()
        if index == ENTRIES:
            return None
        text = name.encode(errors="replace")[:_NAME_BYTES]
        start = index * _NAME_AREA
        self._names[start : start + CHECKSUM.size + len(text)] = checksummed(text)
        self.store(index, [float(where), *[0.0] * (FIGURES - 1)])
        self.counts.clear(index)
        self._cells[Load.ENTRIES] = index + 1
        return index

    def store(self, index: int, figures: Iterable[float]) -> None:
        """Replaces all numbers of an entry; for its writer only."""
        first = LOADS + index * FIGURES
        for cell, value in enumerate(figures, first):
            self._cells[cell] = value

    def store_load(self, figures: Iterable[float]) -> None:
        """Replaces the load, except the count of entries; for its writer only."""
        for cell, value in enumerate(figures):
            if cell != Load.ENTRIES:
                self._cells[cell] = value

    def entry_of(self, name: str) -> int:
        """Returns the index of the first entry of that name, or of the entry for all others."""
        kept = name.encode(errors="replace")[:_NAME_BYTES].decode(errors="replace")
        return next((index for index in range(self._count()) if self._name(index) == kept), _OTHER)

    def absorb(self, other: WorkTable) -> None:
        """Adds another table's numbers to this one, and moves its counts here; for this table's writer only."""
        mine, its = self.read(), other.read()
        total = Work.sum_of((mine, its))
        places = {key: index for index, key in enumerate(mine.entries)}
        for key in its.entries:
            place = places[key] if key in places else self.add(*key)
            if place is not None:
                self.store(place, total.entries[key])
        self.store_load(total.load)
        other.counts.move(_OTHER, self.counts, _OTHER)
        for index in range(other._count()):
            other.counts.move(index, self.counts, self.entry_of(other._name(index)))

    def read(self) -> Work:
        """Returns a copy of the costs; leaves out entries with a torn name or implausible numbers."""
        entries = {}
        for index in range(self._count()):
            first = LOADS + index * FIGURES
            name, figures = self._name(index), tuple(self._cells[first : first + FIGURES])
            if name and figures[Metric.WHERE] in _PLACES and _are_plausible(figures):
                entries[name, Where(int(figures[Metric.WHERE]))] = figures
        load = tuple(self._cells[:LOADS])
        return Work(load if _are_plausible(load) else (0.0,) * LOADS, entries)

    def read_counts(self) -> dict[str, Counts]:
        """Returns a copy of the counts by name; see `flowherd.ledger.activity_counts`."""
        counts = {OTHER: self.counts.read(_OTHER)}
        for index in range(self._count()):
            if name := self._name(index):
                counts[name] = counts.get(name, Counts()) + self.counts.read(index)
        return counts

    def _name(self, index: int) -> str:
        """Returns the name of an entry, "" when it is torn."""
        start = index * _NAME_AREA
        text = read_checksummed(bytes(self._names[start : start + _NAME_AREA]), 0, _NAME_BYTES)
        return text.decode(errors="replace") if text else ""

    def _count(self) -> int:
        count = self._cells[Load.ENTRIES]
        return int(count) if 0 <= count <= ENTRIES else 0


def _are_plausible(figures: tuple[float, ...]) -> bool:
    """True when the numbers can be sums; user code may corrupt them, which must not spoil the host's sums."""
    return isfinite(sum(figures)) and min(figures) >= _LEAST and max(figures) < _MOST


def _added(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the sums of two entries, and the maxima of their longest."""
    added = [mine + its for mine, its in zip(one, other, strict=True)]
    added[Metric.WHERE] = one[Metric.WHERE]
    for figure in _LONGEST:
        added[figure] = max(one[figure], other[figure])
    return tuple(added)
