"""A segment, the memory of one incarnation, as all processes see it; `RecordWriter` writes its records."""

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
    IN_THREAD,
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
STATUS_BYTES = 4  # of a wait status, before the words of a death
JOURNAL_AREA = CHECKSUM.size + JOURNAL_BYTES
_TIMINGS_AT = 8 * 128  # after cells and clocks, in the same page
_PLACE_AT, _PLACE_BYTES = 2048, 512  # after the timings
_PAGE = mmap.PAGESIZE
SEGMENT_BITS, RECORD_BITS = 12, 30  # with 20 for incarnations a sequence leaves a verdict its two bits of 64


def pages(size: int) -> int:
    """Returns `size` rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte offsets inside a segment of `records` records; every area begins on a page of its own."""

    records: int

    @property
    def states(self) -> int:
        """Offset of the states, one byte per record."""
        return _PAGE

    @property
    def verdicts(self) -> int:
        """Offset of the verdicts, sequence and standing in one word per record."""
        return self.states + pages(self.records)

    @property
    def last_ok(self) -> int:
        """Offset of the times at which the engine last confirmed each lease."""
        return self.verdicts + pages(8 * self.records)

    @property
    def times(self) -> int:
        """Offset of the start and length of each limit."""
        return self.last_ok + pages(8 * self.records)

    @property
    def bodies(self) -> int:
        """Offset of the bodies: CRC, head and texts."""
        return self.times + pages(16 * self.records)

    @property
    def journals(self) -> int:
        """Offset of the journals, which hold completions."""
        return self.bodies + pages(RECORD_BYTES * self.records)

    @property
    def usage(self) -> int:
        """Offset of the usage pages."""
        return self.journals + pages(JOURNAL_AREA * self.records)

    @property
    def work(self) -> int:
        """Offset of the table of costs."""
        return self.usage + pages(USAGE_BYTES * self.records)

    @property
    def history(self) -> int:
        """Offset of the history of ended attempts."""
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
    """The memory of one incarnation: reading for all processes, and writing for supervisor, keeper and worker."""

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
        """Reads an integer cell."""
        return self._cells[cell]

    @property
    def timings(self) -> memoryview[int]:
        """The cells of all histograms: for each `Timing` its counts, then its total time in microseconds."""
        return self._timings

    def counts(self, timing: Timing) -> tuple[int, ...]:
        """Returns the counts of one histogram of this incarnation (`flowherd.ledger.histogram`)."""
        return tuple(self._timings[CELLS * timing : CELLS * (timing + 1) - 1])

    def count(self, timing: Timing, seconds: float) -> None:
        """Adds one duration to a histogram; for the worker only."""
        first, cells = CELLS * timing, self._timings
        cells[first + bucket_of(seconds)] += 1
        if seconds > 0:
            cells[first + CELLS - 1] += int(seconds * 1e6)

    def clear_timings(self) -> None:
        """Clears the histograms of the previous incarnation; for the worker only."""
        self._timings[:] = memoryview(bytes(self._timings.nbytes)).cast("Q")

    @property
    def blocked_at(self) -> str:
        """The latest line found to block the loop, `file:line`; "" for none."""
        place = read_checksummed(self.map, self.offset + _PLACE_AT, _PLACE_BYTES)
        return place.decode(errors="replace") if place else ""

    def note_block(self, place: str) -> None:
        """Stores and counts a line that blocks the loop; keeps the end of a long path; for the worker only."""
        start = self.offset + _PLACE_AT
        data = checksummed(place.encode(errors="replace")[-_PLACE_BYTES:])
        self.map[start : start + len(data)] = data
        self.add(Cell.BLOCKS)

    def forget_block(self) -> None:
        """Clears the blocking line of the previous incarnation; for the worker only."""
        self.map[self.offset + _PLACE_AT : self.offset + _PLACE_AT + CHECKSUM.size] = bytes(CHECKSUM.size)

    def put(self, cell: Cell, value: int) -> None:
        """Stores an integer cell; for the cell's writer only."""
        self._cells[cell] = value

    def writer_of(self, cell: Cell) -> Callable[[int], None]:
        """Returns a fast `put` for one cell that is stored often."""
        return partial(setitem, self._cells, int(cell))

    def add(self, cell: Cell, amount: int = 1) -> None:
        """Adds to a counter; for the cell's writer only."""
        self._cells[cell] += amount

    def clock(self, cell: Clock) -> float:
        """Reads a time or duration cell, in seconds."""
        return self._clocks[cell]

    def set_clock(self, cell: Clock, value: float) -> None:
        """Stores a time or duration cell, in seconds; for the cell's writer only."""
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
        """True when the records belong to the current incarnation, not to the previous one."""
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
        """LIVE → ENDED, by the supervisor once the process is reaped, or by the keeper once the supervisor is gone."""
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
        """Yields consistent copies of all records that are not free; torn ones are left for the next scan."""
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
        """Reads a record; None while it is free or being written.

        A record may be reused during the read. So the body is read first, then state and times, then the body's head
        again: a new record writes its body before its times, so an unchanged head means that none had begun to.
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
        has_begun = (state & PAIR) >> 2 >= Handler.RUNNING
        is_in_thread = has_begun and bool(state & IN_THREAD)
        if is_in_thread or (state & ADOPTING and self.standing(index, sequence) is Standing.GOOD):
            state ^= ADOPTING
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
            is_in_thread=is_in_thread,
        )

    def journal(self, index: int) -> bytes | None:
        """Returns the stored completion of a REPORTING record; None when invalid."""
        start = self.offset + self.layout.journals + index * JOURNAL_AREA
        return read_checksummed(self.map, start, JOURNAL_BYTES) or None

    def death(self, index: int) -> tuple[int, str]:
        """Returns the wait status of the isolate of a CRASHED record, and its end in words; 0 and "" when invalid."""
        kept = self.journal(index) or b""
        return int.from_bytes(kept[:STATUS_BYTES], "little"), kept[STATUS_BYTES:].decode(errors="replace")

    def usage(self, page: int, sequence: int) -> UsagePage:
        """Returns the usage page of an attempt, identified by the sequence of its first record."""
        return UsagePage(self.map, self.offset + self.layout.usage + page * USAGE_BYTES, sequence)

    def judge(self, record: Record, standing: Standing, last_ok: float) -> None:
        """Stores the keeper's verdict; `last_ok` is the time at which the engine last confirmed the lease."""
        self._last_ok[record.index] = last_ok
        self._verdicts[record.index] = record.sequence << 2 | standing

    def standing(self, index: int, sequence: int) -> Standing:
        """Returns the keeper's verdict on a record; UNKNOWN when the stored one is for another record at this index."""
        verdict = self._verdicts[index]
        return Standing(verdict & 3) if verdict >> 2 == sequence else Standing.UNKNOWN

    def last_ok(self, index: int, sequence: int) -> float:
        """Returns the time at which the engine last confirmed the record's lease; 0 without a verdict of the keeper."""
        return self._last_ok[index] if self._verdicts[index] >> 2 == sequence else 0.0
