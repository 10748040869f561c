"""The shared-memory table of every lease of the host; it knows bytes and cells, never engines or processes.

One anonymous map is made before the first fork. It holds a token area and an array of **segments**; a segment is
the memory of one incarnation of a worker. Two laws of this map:

1. Every cell has a single writer, named in its enum, and is one aligned 8-byte store; a worker's counters are the
   keeper's once its segment has ENDED. Nothing is packed into the map: `struct.pack_into` zeroes before it writes, and
   a concurrent reader sees the zeroes.
2. A record is packed outside, sliced in with its CRC-32, and only then its state byte is stored. Readers
   copy, check, and skip what does not fit until their next scan.

A segment's life is told by counters that only grow, so that no cell needs two writers:

    FREE  settled == ended == started        the supervisor may open it (started += 1)
    LIVE  started > ended                    its worker writes records once it has set `opened` to `started`
    ENDED ended == started > settled         its end is certain; the keeper settles it, then settled = ended
"""

from __future__ import annotations

import mmap
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from flowherd import crashpoints
from flowherd.ledger import earlier_attempts
from flowherd.ledger.activity_cost_table import AREA_BYTES as WORK_BYTES
from flowherd.ledger.activity_cost_table import Work, WorkTable
from flowherd.ledger.activity_counts import summed
from flowherd.ledger.all_segments import Segments
from flowherd.ledger.attempt_history import HOST_BYTES as HISTORY_BYTES
from flowherd.ledger.attempt_history import AttemptHistory
from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed
from flowherd.ledger.crash_history import FEWEST_ENTRIES, CrashHistory, area_bytes
from flowherd.ledger.damage_check import PLAUSIBLE
from flowherd.ledger.earlier_attempts import SeenCounts
from flowherd.ledger.histogram import CELLS, Timing
from flowherd.ledger.segment import RECORD_BITS, SEGMENT_BITS, Layout, Segment, pages
from flowherd.ledger.states_and_cells import (
    Cell,
    Host,
    Life,
    ProcessTotal,
    Standing,
)
from flowherd.ledger.trend import AREA_BYTES as TREND_BYTES
from flowherd.ledger.trend import Trend

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from flowherd.ledger.record import Record

T = TypeVar("T")


_KEEPER_TICK = Host.KEEPER_TICK  # looked at for each poll
_TOKEN_BYTES = 16 * 1024
_TOKEN_AREA = CHECKSUM.size + _TOKEN_BYTES
_PAGE = mmap.PAGESIZE
MOST_LIVES = 2**20  # of one segment: a sequence has no more bits for them
MOST_VERSIONS = 2**62
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_COUNTED = tuple(Cell[total.name] for total in ProcessTotal)
_WIDTH = len(_COUNTED) + CELLS * len(Timing)  # what is added up for each process: counters, then histograms
_MOST = 2**63  # whatever garbage a sum has become, one more can be stored


class Ledger:
    """The whole map.

    Args:
        processes: how many processes may be wanted at once.
        records: activities one incarnation may hold at once: more than twice the host's concurrency, and as many
            suspects are remembered.
        memory: a file that is large enough, for processes that inherit nothing from each other; anonymous by default.

    """

    def __init__(self, *, processes: int, records: int, memory: int = -1) -> None:
        layout = Layout(records)
        segments = (
            2 * processes + 4
        )  # an old and a new incarnation of each process, and some that are being settled
        totals = pages(_PAGE + 2 * _TOKEN_AREA)
        suspects = totals + pages(8 * processes * _WIDTH)
        suspects_bytes = area_bytes(max(records, FEWEST_ENTRIES))
        work = suspects + pages(suspects_bytes)
        history = work + pages(WORK_BYTES)
        trend = history + pages(HISTORY_BYTES)
        seen = trend + pages(TREND_BYTES)
        seen_bytes = earlier_attempts.area_bytes(segments + 1)
        first = seen + pages(seen_bytes)
        self._map = mmap.mmap(
            memory,
            first + segments * layout.size,
            flags=mmap.MAP_SHARED | (mmap.MAP_ANONYMOUS if memory < 0 else 0) | _MAP_NORESERVE,
        )
        self._cells = memoryview(self._map).cast("Q")
        self._sums: memoryview[int] = memoryview(self._map)[totals:suspects].cast("Q")
        self._moves = 0  # odd while `absorb` is at it; not shared, since keeper and reader are one process
        self.crash_history = CrashHistory(memoryview(self._map)[suspects : suspects + suspects_bytes])
        self.seen = SeenCounts(memoryview(self._map)[seen : seen + seen_bytes])
        self._ended_work = WorkTable(memoryview(self._map)[work : work + WORK_BYTES])
        self.history = AttemptHistory.of_host(self._map, history)
        self.trend = Trend(self._map, trend)
        self.processes = processes
        self.segments = Segments(self._map, first, layout, segments)

    def __repr__(self) -> str:
        used = sum(segment.life is not Life.FREE for segment in self.segments)
        return f"<Ledger [{used} segments in use of {len(self.segments)}]>"

    def process_total(self, index: int, total: ProcessTotal) -> int:
        """The sum of a counter over the process's settled incarnations; 0 for an index that there cannot be."""
        return self._sums[index * _WIDTH + total] if index < self.processes else 0

    def ended_total(self, total: ProcessTotal) -> int:
        """The same over all processes."""
        return sum(self.process_total(index, total) for index in range(self.processes))

    def sums(self, index: int) -> list[int]:
        """Everything the process's settled incarnations have counted: each `ProcessTotal`, then `Segment.timings`."""
        return list(self._sums[index * _WIDTH : (index + 1) * _WIDTH])

    def counts(self, segment: Segment) -> list[int]:
        """The same of a segment's present incarnation; nothing but 0 once it is part of its process's sums."""
        if not _counts(segment):
            return [0] * _WIDTH
        counted = (*map(segment.get, _COUNTED), *segment.timings)
        return [count if count < PLAUSIBLE else 0 for count in counted]

    def count(self, segment: Segment, cell: Cell) -> int:
        """A counter of a segment's present incarnation; 0 once it is part of its process's total."""
        count = segment.get(cell) if _counts(segment) else 0
        return count if count < PLAUSIBLE else 0

    def absorb(self, segment: Segment) -> None:
        """ENDED → FREE: adds an ended incarnation's counters to its process's; only the keeper may.

        Counter by counter it is added there, then cleared here, so no sum ever falls. A keeper that dies between these
        two stores leaves one counter too high by what one incarnation has counted.
        """
        process = segment.get(Cell.PROCESS)
        self._moves += 1
        try:
            for number, count in enumerate(self.counts(segment) if process < self.processes else ()):
                at = process * _WIDTH + number
                self._sums[at] = (self._sums[at] + count) % _MOST
                _clear(segment, number)
            self._ended_work.absorb(segment.work)
            segment.settled()
        finally:
            self._moves += 1

    def unmoved(self, read: Callable[[], T]) -> T:
        """Reads in another thread of the keeper, and again if a counter has moved meanwhile."""
        while True:
            before = self._moves
            found = read()
            if self._moves == before and before % 2 == 0:
                return found

    def work(self) -> Work:
        """The cost of activities in all incarnations so far."""
        present = (segment.work.read() for segment in self.segments if _counts(segment))
        return Work.sum_of((self._ended_work.read(), *present))

    def activity_counts(self) -> dict[str, tuple[int, ...]]:
        """The ends and durations of activities by name, in all incarnations so far."""
        tables = (self._ended_work, *(segment.work for segment in self.segments if _counts(segment)))
        counts: dict[str, tuple[int, ...]] = {}
        for table in tables:
            for name, numbers in table.read_counts().items():
                counts[name] = summed((counts[name], numbers)) if name in counts else numbers
        return counts

    def remember(self, now: float) -> None:
        """Moves what workers have written of ended attempts to the host's history, and counts; the keeper alone may."""
        for segment in self.segments:
            self.history.take_from(segment.history)
        self.trend.note(now, self._counted)

    def ended_attempts(self, word: bytes = b"") -> list[bytes]:
        """The entries of attempts that hold `word`, also those that the keeper has not moved yet.

        What is moved meanwhile is there twice.
        """
        own = (segment.history.attempts.waiting(word) for segment in self.segments)
        return [*chain.from_iterable(own), *self.history.attempts.entries(word)]

    def ended_failures(self, word: bytes = b"") -> list[bytes]:
        """The same of failures, with their words."""
        own = (segment.history.failures.waiting(word) for segment in self.segments)
        return [*chain.from_iterable(own), *self.history.failures.entries(word)]

    def _counted(self) -> tuple[int, ...]:
        tables = (self._ended_work, *(segment.work for segment in self.segments if _counts(segment)))
        return summed(numbers for table in tables for numbers in table.read_counts().values())

    def process_of(self, segment: Segment) -> tuple[Segment, ...]:
        """The segments of one process: a worker's own, or those of all threads beside which it works."""
        pid, incarnation = segment.get(Cell.PID), segment.get(Cell.INCARNATION)
        if not pid:
            return (segment,)  # nothing ever worked in it
        return tuple(
            one
            for one in self.segments
            if one.get(Cell.PID) == pid
            and one.get(Cell.INCARNATION) == incarnation
            and one.life is not Life.FREE
        )

    def free_segments(self, wanted: int, taken: Collection[int] = ()) -> tuple[Segment, ...]:
        """Segments for the workers of a new incarnation, none while too many are in use or being settled.

        Args:
            wanted: how many.
            taken: numbers of those that are in use, whatever they say.

        """
        free = (
            segment
            for segment in self.segments
            if segment.life is Life.FREE
            and segment.number not in taken
            and segment.get(Cell.STARTED) < MOST_LIVES
        )
        found = tuple(islice(free, wanted))
        return found if len(found) == wanted else ()

    def free_segment(self) -> Segment | None:
        """A segment for the one worker of a new incarnation, None while all are in use or being settled."""
        return next(iter(self.free_segments(1)), None)

    def record_of(self, sequence: int) -> tuple[Segment, Record] | None:
        """The record with that sequence, and its segment; None once that is free, or another incarnation's."""
        life_number = sequence >> RECORD_BITS
        number = life_number & (1 << SEGMENT_BITS) - 1
        segment = self.segments[number] if number < len(self.segments) else None
        if segment is None or segment.life_number != life_number or segment.life is Life.FREE:
            return None
        found = (record for record in segment.records() if record.sequence == sequence)
        return next(((segment, record) for record in found), None)

    def get(self, cell: Host) -> int:
        """Reads one of the host's cells."""
        return self._cells[cell]

    def put(self, cell: Host, value: int) -> None:
        """Stores one of the host's cells; only its writer may."""
        self._cells[cell] = value

    def tick(self, at: float) -> None:
        """Says that the keeper has looked, or that it need not look before then; only the keeper may."""
        self._cells[Host.KEEPER_TICK] = int(at * 1e6)

    def keeper_rests(self, now: float) -> bool:
        """True when the keeper has gone to rest since nothing was held: who has claimed must wake it."""
        return self._cells[Host.KEEPER_TICK] > now * 1e6

    def keeper_late_s(self, now: float) -> float:
        """Seconds since the keeper looked last; not above 0 while it rests, or where there is none."""
        tick = self._cells[_KEEPER_TICK]
        return now - tick / 1e6 if tick else 0.0

    def conclude(self, counter: Host, segment: Segment, record: Record, standing: Standing) -> None:
        """Judges a record for good and counts it, once however often it is asked for; only the keeper may.

        A keeper that dies between the two leaves the counter one too low.
        """
        crashpoints.reached("before_verdict")
        if segment.standing(record.index, record.sequence) is standing:
            return
        segment.judge(record, standing, segment.last_ok(record.index, record.sequence))
        crashpoints.reached("before_count")
        self._cells[counter] = (self._cells[counter] + 1) % _MOST

    def publish_token(self, token: str) -> int:
        """Makes `token` the host's bearer and returns its version; only the keeper may (protocol.md R13).

        Two areas take turns, so that a reader of the previous version is never overwritten.

        Raises:
            ValueError: the token is longer than its area.

        """
        data = token.encode()
        if len(data) > _TOKEN_BYTES:
            raise ValueError(f"the access token has {len(data)} bytes; at most {_TOKEN_BYTES} are supported")
        version = (self._cells[Host.TOKEN_VERSION] + 1) % MOST_VERSIONS
        offset = _PAGE + (version % 2) * _TOKEN_AREA
        self._map[offset : offset + CHECKSUM.size + len(data)] = checksummed(data)
        self._cells[Host.TOKEN_VERSION] = version
        return version

    def token(self) -> tuple[int, str]:
        """The host's bearer and its version; (0, "") before the first, and while it is being replaced."""
        version = self._cells[Host.TOKEN_VERSION]
        data = (
            read_checksummed(self._map, _PAGE + (version % 2) * _TOKEN_AREA, _TOKEN_BYTES)
            if version
            else None
        )
        if data is None or self._cells[Host.TOKEN_VERSION] != version:
            return 0, ""
        return version, data.decode()


def _counts(segment: Segment) -> bool:
    """The present incarnation has begun to count, and its numbers are not yet part of its process's."""
    return segment.readable and segment.life is not Life.FREE


def _clear(segment: Segment, number: int) -> None:
    """Sets one of `Ledger.counts` to 0: once its incarnation has ENDED, the keeper writes them."""
    if number < len(_COUNTED):
        segment.put(_COUNTED[number], 0)
    else:
        segment.timings[number - len(_COUNTED)] = 0
