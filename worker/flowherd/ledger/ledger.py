"""The ledger: one shared-memory map with every lease of the host.

The anonymous map is created before the first fork. It holds areas of the host and an array of **segments**; a segment
is the memory of one incarnation of a worker. The map has two laws:

1. Every cell has a single writer, named in its enum, and is one aligned 8-byte store; once a segment has ENDED the
   keeper writes its counters. Nothing is packed into the map: `struct.pack_into` zeroes before it writes, and a
   concurrent reader sees the zeroes.
2. A record is packed outside the map and sliced in with its CRC-32; only then is its state byte stored. Readers copy
   and check a record, and skip one with a wrong CRC until their next scan.

A segment's life is derived from counters that only grow, so that no cell needs two writers:

    FREE  settled == ended == started        the supervisor may open it (started += 1)
    LIVE  started > ended                    its worker sets `opened` to `started`, then writes records
    ENDED ended == started > settled         its process has ended; the keeper settles it, then settled = ended
"""

from __future__ import annotations

import mmap
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

from flowherd import crashpoints
from flowherd.ledger import earlier_attempts
from flowherd.ledger.activity_cost_table import AREA_BYTES as WORK_BYTES
from flowherd.ledger.activity_cost_table import Work, WorkTable
from flowherd.ledger.activity_counts import Counts
from flowherd.ledger.all_segments import Segments
from flowherd.ledger.attempt_history import HOST_BYTES as HISTORY_BYTES
from flowherd.ledger.attempt_history import AttemptHistory
from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed
from flowherd.ledger.crash_history import FEWEST_ENTRIES, CrashHistory, area_bytes
from flowherd.ledger.earlier_attempts import SeenCounts
from flowherd.ledger.histogram import CELLS, Timing
from flowherd.ledger.segment import RECORD_BITS, SEGMENT_BITS, Layout, Segment, pages
from flowherd.ledger.states_and_cells import (
    PLAUSIBLE,
    Cell,
    Host,
    Life,
    ProcessTotal,
    Standing,
)
from flowherd.ledger.trend import AREA_BYTES as TREND_BYTES
from flowherd.ledger.trend import Trend

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from flowherd.ledger.record import Record

T = TypeVar("T")


_KEEPER_TICK = Host.KEEPER_TICK  # a module constant: read for each poll
_TOKEN_BYTES = 16 * 1024
_TOKEN_AREA = CHECKSUM.size + _TOKEN_BYTES
_PAGE = mmap.PAGESIZE
MOST_LIVES = 2**20  # incarnations of one segment: a sequence has 20 bits for them
MOST_VERSIONS = 2**62
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_COUNTED = tuple(Cell[total.name] for total in ProcessTotal)
_WIDTH = len(_COUNTED) + CELLS * len(Timing)  # numbers summed for each process: counters, then histograms
_MOST = 2**63  # sums are stored modulo this, so that even a corrupt one can be incremented


class Ledger:
    """The ledger of a host.

    Args:
        processes: the largest number of processes.
        records: the most activities that one incarnation may hold, more than twice the host's concurrency; also the
            number of suspects kept.
        memory: the descriptor of a large enough file, for processes that do not inherit the map; anonymous by default.

    """

    def __init__(self, *, processes: int, records: int, memory: int = -1) -> None:
        layout = Layout(records)
        segments = 2 * processes + 4  # an old and a new incarnation of each process, and some being settled
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
        self._moves = 0  # odd during `absorb`; not shared, because keeper and reader are one process
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
        """Returns the sum of a counter over the process's settled incarnations; 0 for an invalid index."""
        return self._sums[index * _WIDTH + total] if index < self.processes else 0

    def ended_total(self, total: ProcessTotal) -> int:
        """Returns the sum of a counter over the settled incarnations of all processes."""
        return sum(self.process_total(index, total) for index in range(self.processes))

    def sums(self, index: int) -> list[int]:
        """Returns all sums over the process's settled incarnations: each `ProcessTotal`, then `Segment.timings`."""
        return list(self._sums[index * _WIDTH : (index + 1) * _WIDTH])

    def counts(self, segment: Segment) -> list[int]:
        """Returns the same numbers of a segment's current incarnation; all 0 once they are in its process's sums."""
        if not _counts(segment):
            return [0] * _WIDTH
        counted = (*map(segment.get, _COUNTED), *segment.timings)
        return [count if count < PLAUSIBLE else 0 for count in counted]

    def count(self, segment: Segment, cell: Cell) -> int:
        """Returns a counter of a segment's current incarnation; 0 once it is in its process's total."""
        count = segment.get(cell) if _counts(segment) else 0
        return count if count < PLAUSIBLE else 0

    def absorb(self, segment: Segment) -> None:
        """ENDED → FREE: adds an ended incarnation's counters to its process's sums, and its attempts to the history.

        For the keeper only. Each counter is added there before it is cleared here, so no sum ever falls. A keeper that
        dies between the two stores leaves one counter too high, by the count of one incarnation.
        """
        process = segment.get(Cell.PROCESS)
        self._moves += 1
        try:
            for number, count in enumerate(self.counts(segment) if process < self.processes else ()):
                at = process * _WIDTH + number
                self._sums[at] = (self._sums[at] + count) % _MOST
                _clear(segment, number)
            self._ended_work.absorb(segment.work)
            self.history.take_from(segment.history)
            segment.settled()
        finally:
            self._moves += 1

    def unmoved(self, read: Callable[[], T]) -> T:
        """Returns the result of `read`, called again when `absorb` ran meanwhile; for other threads of the keeper."""
        while True:
            before = self._moves
            found = read()
            if self._moves == before and before % 2 == 0:
                return found

    def work(self) -> Work:
        """Returns the costs of activities in all incarnations so far."""
        return Work.sum_of(table.read() for table in self._work_tables())

    def activity_counts(self) -> dict[str, Counts]:
        """Returns the ends and durations of activities by name, in all incarnations so far."""
        found: dict[str, Counts] = {}
        for table in self._work_tables():
            for name, counts in table.read_counts().items():
                found[name] = found.get(name, Counts()) + counts
        return found

    def remember(self, now: float) -> None:
        """Moves the workers' ended attempts to the host's history, and samples the trend; for the keeper only."""
        for number in self.segments.begun():
            self.history.take_from(self.segments[number].history)
        self.trend.note(now, self._counted)

    def ended_attempts(self, word: bytes = b"") -> list[bytes]:
        """Returns the entries of ended attempts that contain `word`, also those that the keeper has not moved yet.

        An entry that is moved during the call appears twice.
        """
        own = (segment.history.attempts.waiting(word) for segment in self.segments)
        return [*chain.from_iterable(own), *self.history.attempts.entries(word)]

    def ended_failures(self, word: bytes = b"") -> list[bytes]:
        """Returns the entries of failures that contain `word`, like `ended_attempts`."""
        own = (segment.history.failures.waiting(word) for segment in self.segments)
        return [*chain.from_iterable(own), *self.history.failures.entries(word)]

    def _counted(self) -> Counts:
        return sum(self.activity_counts().values(), Counts())

    def _work_tables(self) -> Iterator[WorkTable]:
        """Yields the costs and counts of activities in all incarnations: of the settled ones together, and of each."""
        yield self._ended_work
        for number in self.segments.begun():
            if self.segments[number].readable:
                yield self.segments[number].work

    def process_of(self, segment: Segment) -> tuple[Segment, ...]:
        """Returns the segments of one process: the given one, or those of all worker threads of its process."""
        pid, incarnation = segment.get(Cell.PID), segment.get(Cell.INCARNATION)
        if not pid:
            return (segment,)  # it was never used
        return tuple(
            one
            for one in self.segments
            if one.get(Cell.PID) == pid
            and one.get(Cell.INCARNATION) == incarnation
            and one.life is not Life.FREE
        )

    def free_segments(self, wanted: int, taken: Collection[int] = ()) -> tuple[Segment, ...]:
        """Returns free segments for the workers of a new incarnation; none when fewer than `wanted` are free.

        Args:
            wanted: the number of segments.
            taken: the numbers of segments that are in use although they may look free.

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
        """Returns a free segment, None while all are in use or being settled."""
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
        """Stores one of the host's cells; for its writer only."""
        self._cells[cell] = value

    def tick(self, at: float) -> None:
        """Stores the time of the keeper's scan, or the later time until which it rests; for the keeper only."""
        self._cells[Host.KEEPER_TICK] = int(at * 1e6)

    def keeper_rests(self, now: float) -> bool:
        """True when the keeper rests because no record is held; a worker that has claimed an activity must wake it."""
        return self._cells[Host.KEEPER_TICK] > now * 1e6

    def keeper_late_s(self, now: float) -> float:
        """Seconds since the keeper's last scan; at most 0 while it rests, or when there is no keeper."""
        tick = self._cells[_KEEPER_TICK]
        return now - tick / 1e6 if tick else 0.0

    def conclude(self, counter: Host, segment: Segment, record: Record, standing: Standing) -> None:
        """Stores a final verdict on a record and counts it, once for repeated calls; for the keeper only.

        A keeper that dies between the two stores leaves the counter one too low.
        """
        crashpoints.reached("before_verdict")
        if segment.standing(record.index, record.sequence) is standing:
            return
        segment.judge(record, standing, segment.last_ok(record.index, record.sequence))
        crashpoints.reached("before_count")
        self._cells[counter] = (self._cells[counter] + 1) % _MOST

    def publish_token(self, token: str) -> int:
        """Publishes the host's bearer token and returns its version; for the keeper only (protocol.md R13).

        Two areas alternate, so that a token is never overwritten while a reader of the previous version copies it.

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
        """Returns the version and the host's token; (0, "") before the first, and while it is being replaced."""
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
    """True when the current incarnation has opened its segment, and its numbers are not yet in its process's sums."""
    return segment.readable and segment.life is not Life.FREE


def _clear(segment: Segment, number: int) -> None:
    """Sets one of `Ledger.counts` to 0, which the keeper may write once the incarnation has ENDED."""
    if number < len(_COUNTED):
        segment.put(_COUNTED[number], 0)
    else:
        segment.timings[number - len(_COUNTED)] = 0
