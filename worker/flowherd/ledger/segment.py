"""The memory of one incarnation, as all processes see it; it never writes records: that is `RecordWriter`'s."""

from __future__ import annotations

import mmap
import zlib
from dataclasses import dataclass
from functools import partial
from operator import setitem
from typing import TYPE_CHECKING, Any

from flowherd.ledger.activity_cost_table import AREA_BYTES as WORK_BYTES
from flowherd.ledger.activity_cost_table import WorkTable
from flowherd.ledger.adoption_cells import AdoptionCells, adoption_bytes
from flowherd.ledger.attempt_history import AttemptHistory, history_bytes
from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed
from flowherd.ledger.histogram import CELLS, Timing, bucket_of
from flowherd.ledger.record import CRC_BYTES, HEAD, RECORD_BYTES, TEXT_AT, Record, texts_of
from flowherd.ledger.states_and_cells import (
    ADOPTING,
    PAIR,
    WAITS_FOR_WORD,
    Cause,
    Cell,
    Clock,
    Handler,
    Life,
    Standing,
    is_record_byte,
)
from flowherd.ledger.usage_page import PAGE_BYTES as USAGE_BYTES
from flowherd.ledger.usage_page import UsagePage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOURNAL_BYTES = 4096  # a larger kept completion is settled as a failure instead (faults.md decision 4)
JOURNAL_AREA = CHECKSUM.size + JOURNAL_BYTES
_TIMINGS_AT = 8 * 128  # behind cells and clocks, in the page of both
_PLACE_AT, _PLACE_BYTES = 2048, 512  # behind the timings
_PAGE = mmap.PAGESIZE
SEGMENT_BITS, RECORD_BITS = 12, 30  # with 20 for incarnations a sequence leaves a verdict its two bits of 64


def pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets inside a segment of `records` records; every area begins on a page of its own."""

    records: int

    @property
    def states(self) -> int:
        """Offset of the states, a byte a record."""
        return _PAGE

    @property
    def verdicts(self) -> int:
        """Sequence and standing in one word."""
        return self.states + pages(self.records)

    @property
    def last_ok(self) -> int:
        """When the engine last confirmed the lease."""
        return self.verdicts + pages(8 * self.records)

    @property
    def times(self) -> int:
        """When the limit began, and the limit."""
        return self.last_ok + pages(8 * self.records)

    @property
    def bodies(self) -> int:
        """CRC, head and texts."""
        return self.times + pages(16 * self.records)

    @property
    def journals(self) -> int:
        """Kept completions."""
        return self.bodies + pages(RECORD_BYTES * self.records)

    @property
    def usage(self) -> int:
        """Offset of what attempts have spent."""
        return self.journals + pages(JOURNAL_AREA * self.records)

    @property
    def work(self) -> int:
        """Offset of what activities have cost."""
        return self.usage + pages(USAGE_BYTES * self.records)

    @property
    def history(self) -> int:
        """Offset of the attempts that have ended."""
        return self.work + pages(WORK_BYTES)

    @property
    def adoption(self) -> int:
        """Offset of what others need to take over what has not begun."""
        return self.history + pages(history_bytes())

    @property
    def size(self) -> int:
        """The whole segment."""
        return self.adoption + adoption_bytes(self.records)


class Segment:
    """The memory of one incarnation: what anybody may read, and what supervisor and keeper write."""

    def __init__(self, map_: mmap.mmap, offset: int, layout: Layout, number: int) -> None:
        self.map = map_
        self.offset = offset
        self.layout = layout
        self.number = number
        self.capacity = layout.records
        self._cells: memoryview[int] = self._view(0, 64, "Q")
        self._clocks: memoryview[float] = self._view(0, 128, "d")
        self._timings: memoryview[int] = self._view(_TIMINGS_AT, CELLS * len(Timing), "Q")
        self.states = memoryview(map_)[offset + layout.states :][: layout.records]
        self._verdicts: memoryview[int] = self._view(layout.verdicts, layout.records, "Q")
        self._last_ok: memoryview[float] = self._view(layout.last_ok, layout.records, "d")
        self.times: memoryview[float] = self._view(layout.times, 2 * layout.records, "d")
        self.work = WorkTable(memoryview(map_)[offset + layout.work :][:WORK_BYTES])
        self.history = AttemptHistory(map_, offset + layout.history)
        self.adoption = AdoptionCells(map_, offset + layout.adoption, layout.records)

    def __repr__(self) -> str:
        process = f"{self.get(Cell.PROCESS)}.{self.get(Cell.INCARNATION)}"
        records = sum(1 for _ in self.records())
        return f"<Segment {self.number} {self.life.value}, process {process}, {records} records>"

    def _view(self, area: int, count: int, kind: str) -> Any:
        start = self.offset + area
        return memoryview(self.map)[start : start + 8 * count].cast(kind)  # type: ignore[call-overload]

    def get(self, cell: Cell) -> int:
        """Reads a whole number."""
        return self._cells[cell]

    @property
    def timings(self) -> memoryview[int]:
        """The cells of all histograms: for each `Timing` its counts, then its time in microseconds."""
        return self._timings

    def counts(self, timing: Timing) -> tuple[int, ...]:
        """The durations of this incarnation's activities, as counts by `flowherd.ledger.histogram`."""
        return tuple(self._timings[CELLS * timing : CELLS * (timing + 1) - 1])

    def count(self, timing: Timing, seconds: float) -> None:
        """Adds one duration to a histogram; only the worker may."""
        first, cells = CELLS * timing, self._timings
        cells[first + bucket_of(seconds)] += 1
        if seconds > 0:
            cells[first + CELLS - 1] += int(seconds * 1e6)

    def clear_timings(self) -> None:
        """Empties the histograms of the incarnation before; only the worker may."""
        self._timings[:] = memoryview(bytes(self._timings.nbytes)).cast("Q")

    @property
    def blocked_at(self) -> str:
        """The newest line that was found to keep the loop, `file:line`; empty if there was none."""
        place = read_checksummed(self.map, self.offset + _PLACE_AT, _PLACE_BYTES)
        return place.decode(errors="replace") if place else ""

    def note_block(self, place: str) -> None:
        """Counts a line that keeps the loop; only the worker may. Of a long path the end matters."""
        start = self.offset + _PLACE_AT
        data = checksummed(place.encode(errors="replace")[-_PLACE_BYTES:])
        self.map[start : start + len(data)] = data
        self.add(Cell.BLOCKS)

    def forget_block(self) -> None:
        """Empties what the incarnation before has left; only the worker may."""
        self.map[self.offset + _PLACE_AT : self.offset + _PLACE_AT + CHECKSUM.size] = bytes(CHECKSUM.size)

    def put(self, cell: Cell, value: int) -> None:
        """Stores a whole number; only the cell's writer may."""
        self._cells[cell] = value

    def writer_of(self, cell: Cell) -> Callable[[int], None]:
        """As `put`, for who stores one cell again and again."""
        return partial(setitem, self._cells, int(cell))

    def add(self, cell: Cell, amount: int = 1) -> None:
        """Adds to a counter; only the cell's writer may."""
        self._cells[cell] += amount

    def clock(self, cell: Clock) -> float:
        """Reads a time or duration in seconds."""
        return self._clocks[cell]

    def set_clock(self, cell: Clock, value: float) -> None:
        """Stores a time or duration in seconds; only the cell's writer may."""
        self._clocks[cell] = value

    @property
    def life(self) -> Life:
        """FREE, LIVE or ENDED, from the three counters."""
        started, ended = self._cells[Cell.STARTED], self._cells[Cell.ENDED]
        if started != ended:
            return Life.LIVE
        return Life.FREE if self._cells[Cell.SETTLED] == ended else Life.ENDED

    @property
    def life_number(self) -> int:
        """A number that no other incarnation has: the first bits of all its sequences."""
        return self._cells[Cell.STARTED] << SEGMENT_BITS | self.number

    @property
    def readable(self) -> bool:
        """True when the records belong to the present incarnation, and not to the one before."""
        return self._cells[Cell.OPENED] == self._cells[Cell.STARTED]

    def open(self, *, index: int, incarnation: int, now: float) -> None:
        """FREE → LIVE, by the supervisor, before it forks."""
        assert self.life is Life.FREE, self
        for cell in (Cell.CAUSE, Cell.EXIT_STATUS, Cell.PID, Cell.GUILTY, Cell.RESIDENT_BYTES):
            self._cells[cell] = 0
        self._cells[Cell.PROCESS] = index
        self._cells[Cell.INCARNATION] = incarnation
        self._clocks[Clock.STARTED_AT] = now
        self._cells[Cell.STARTED] += 1

    def end(self, cause: Cause, exit_status: int = 0) -> None:
        """LIVE → ENDED, by the supervisor, once `waitpid` has said so."""
        assert self.life is Life.LIVE, self
        self._cells[Cell.CAUSE] = cause
        self._cells[Cell.EXIT_STATUS] = exit_status
        self._cells[Cell.ENDED] = self._cells[Cell.STARTED]

    def settled(self) -> None:
        """ENDED → FREE, by the keeper, once every record has its verdict."""
        assert self.life is Life.ENDED, self
        self.adoption.forget_replies()
        self._cells[Cell.SETTLED] = self._cells[Cell.ENDED]

    def records(self) -> Iterator[Record]:
        """Consistent copies of all records that are not FREE; torn ones are left for the next scan."""
        if not self.readable:
            return
        states = bytes(self.states[: min(self._cells[Cell.HIGH_WATER], self.capacity)])
        for index, state in enumerate(states):
            if state and (record := self.record(index)) is not None:
                yield record

    def adopting(self) -> Iterator[Record]:
        """The records that wait for the keeper's word."""
        states = bytes(self.states) if self.readable else b""
        index = states.find(WAITS_FOR_WORD)
        while index >= 0:
            record = self.record(index)
            if record is not None and self.standing(index, record.sequence) is Standing.UNKNOWN:
                yield record
            index = states.find(WAITS_FOR_WORD, index + 1)

    def record(self, index: int) -> Record | None:
        """Reads a record; None while it is free or being changed.

        A place may be reused while it is read. So the body is read first, then state and times, then the
        body's head again: a later record writes its body before its times, and an unchanged head means that
        none had begun to.
        """
        start = self.offset + self.layout.bodies + index * RECORD_BYTES
        body = self.map[start : start + RECORD_BYTES]
        *lengths, sequence, first, claimed_at, lease_s, page = HEAD.unpack_from(body, CRC_BYTES)
        end = TEXT_AT + sum(lengths)
        if end > RECORD_BYTES or zlib.crc32(body[CRC_BYTES:end]) != int.from_bytes(
            body[:CRC_BYTES], "little"
        ):
            return None
        state, started_at, limit_s = self.states[index], self.times[2 * index], self.times[2 * index + 1]
        if not state or not is_record_byte(state) or self.map[start : start + TEXT_AT] != body[:TEXT_AT]:
            return None
        if state & ADOPTING and self.standing(index, sequence) is Standing.GOOD:
            state ^= ADOPTING
        has_begun = (state & PAIR) >> 2 >= Handler.RUNNING
        activity_id, workflow_id, name, key, worker_id = texts_of(lengths, body[TEXT_AT:end])
        return Record(
            index=index,
            byte=state,
            sequence=sequence,
            activity_id=activity_id,
            worker_id=worker_id,
            name=name,
            workflow_id=workflow_id,
            key=key,
            claimed_at=claimed_at,
            lease_s=lease_s,
            started_at=started_at if has_begun else 0.0,
            limit_s=limit_s if has_begun else 0.0,
            usage_page=page,
            usage_sequence=first,
        )

    def journal(self, index: int) -> bytes | None:
        """The kept completion of a REPORTING record, or how a CRASHED one died; None if neither checks."""
        start = self.offset + self.layout.journals + index * JOURNAL_AREA
        return read_checksummed(self.map, start, JOURNAL_BYTES) or None

    def usage(self, page: int, sequence: int) -> UsagePage:
        """The page of an attempt's sums, under the sequence of its first record."""
        return UsagePage(self.map, self.offset + self.layout.usage + page * USAGE_BYTES, sequence)

    def judge(self, record: Record, standing: Standing, last_ok: float) -> None:
        """Writes the keeper's verdict; `last_ok` is when the engine last confirmed the lease."""
        self._last_ok[record.index] = last_ok
        self._verdicts[record.index] = record.sequence << 2 | standing

    def standing(self, index: int, sequence: int) -> Standing:
        """The keeper's verdict on a record, UNKNOWN if it was about an earlier one in the same place."""
        verdict = self._verdicts[index]
        return Standing(verdict & 3) if verdict >> 2 == sequence else Standing.UNKNOWN

    def last_ok(self, index: int, sequence: int) -> float:
        """When the engine last confirmed this record's lease; 0 if the keeper has not judged it."""
        return self._last_ok[index] if self._verdicts[index] >> 2 == sequence else 0.0
