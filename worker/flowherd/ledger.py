"""The shared-memory table of every lease of the host; it knows bytes and cells, never engines or processes.

One anonymous map is made before the first fork. It holds a token area and an array of **berths**; a berth is the
memory of one incarnation of a worker. Two laws of this file:

1. Every cell has a single writer, named in its enum, and is one aligned 8-byte store. Nothing is packed into the
   map: `struct.pack_into` zeroes before it writes, and a concurrent reader sees the zeroes.
2. A record is packed outside, sliced in with its CRC-32, and only then its state byte is stored. Readers copy,
   check, and skip what does not fit until their next scan.

A berth's life is told by counters that only grow, so that no cell needs two writers:

    FREE  settled == ended == started        the supervisor may open it (started += 1)
    LIVE  started > ended                    its worker writes records once it has set `opened` to `started`
    ENDED ended == started > settled         the supervisor has reaped it; the keeper settles, then settled = ended
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from flowherd.errors import LedgerFull

RECORD_BYTES = 512
JOURNAL_BYTES = (
    4096  # a kept completion that is larger is settled as a failure instead (faults.md decision 4)
)
_JOURNAL_AREA = 8 + JOURNAL_BYTES
_TOKEN_BYTES = 16 * 1024
_TOKEN_AREA = 8 + _TOKEN_BYTES
_PAGE = mmap.PAGESIZE
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_RECORD_HEAD = struct.Struct("<IHHHxxQdd")  # crc, three lengths, sequence, claimed_at, lease_s
_CRC = struct.Struct("<II")  # length, crc


class State(IntEnum):
    """What a record says about its activity (design table: who beats it, who settles it)."""

    FREE = 0
    CLAIMED = 1  # waits for a slot; its limit has not begun
    RUNNING = 2
    REPORTING = 3  # outcome known, not yet accepted
    ZOMBIE = 4  # reported or lost, but the handler has not ended: the slot is still held


HELD = frozenset({State.CLAIMED, State.RUNNING, State.REPORTING})  # what the keeper beats and settles


class Standing(IntEnum):
    """The keeper's verdict on a record; it counts only for the sequence it was written with."""

    UNKNOWN = 0
    GOOD = 1
    GONE = 2


class Cause(IntEnum):
    """Why an incarnation ended, as the supervisor knows it; decides the code of what the keeper settles."""

    CLEAN = 0
    CRASH = 1
    STOPPED = 2  # killed at a drain limit, by a second signal, or after the supervisor had gone


class Life(Enum):
    """Where a berth stands in its life."""

    FREE = "free"
    LIVE = "live"
    ENDED = "ended"


class Host(IntEnum):
    """Cells of the whole host."""

    TOKEN_VERSION = 0  # keeper
    KEEPER_TICK = 1  # keeper, monotonic microseconds
    SETTLED = 2  # keeper: records of ended berths handed back or delivered
    LEASES_LOST = 3  # keeper


class SeatTotal(IntEnum):
    """Counters of a seat's incarnations that have ended and been settled; all written by the keeper."""

    CLAIMED = 0
    COMPLETED = 1
    FAILED = 2
    LOST = 3


class Cell(IntEnum):
    """Cells of a berth that hold whole numbers."""

    STARTED = 0  # supervisor
    ENDED = 1  # supervisor
    CAUSE = 2  # supervisor
    EXIT_STATUS = 3  # supervisor, the wait status
    SEAT = 4  # supervisor
    INCARNATION = 5  # supervisor
    PID = 6  # supervisor
    SETTLED = 7  # keeper
    SETTLED_RECORDS = 8  # keeper, of this incarnation
    OPENED = 9  # worker, as all below
    PHASE = 10
    LIMIT = 11
    LIMIT_APPLIED = 12
    HELD = 13
    RUNNING = 14
    CLAIMED = 15
    COMPLETED = 16
    FAILED = 17
    LOST = 18
    POLLS = 19
    EMPTY_POLLS = 20
    HIGH_WATER = 21
    TOKEN_REFUSED = 22
    POLL_ERRORS = 23


class Clock(IntEnum):
    """Cells of a berth that hold monotonic seconds or a duration."""

    STARTED_AT = 64  # supervisor
    READY_AT = 65  # worker, as all below
    LAST_GOOD_POLL = 66
    LOOP_LAG_S = 67
    TICK = 68
    POLL_RTT_S = 69


@dataclass(frozen=True, slots=True)
class Record:
    """A consistent copy of one record. Times are seconds of the monotonic clock, which all processes share."""

    index: int
    state: State
    sequence: int
    activity_id: str
    worker_id: str
    name: str
    claimed_at: float
    lease_s: float
    started_at: float
    limit_s: float


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


@dataclass(frozen=True, slots=True)
class _Layout:
    """Byte offsets inside a berth of `records` records; every area begins on a page of its own."""

    records: int

    @property
    def states(self) -> int:
        return _PAGE

    @property
    def verdicts(self) -> int:
        return self.states + _pages(self.records)

    @property
    def last_ok(self) -> int:
        return self.verdicts + _pages(8 * self.records)

    @property
    def times(self) -> int:
        return self.last_ok + _pages(8 * self.records)

    @property
    def bodies(self) -> int:
        return self.times + _pages(16 * self.records)

    @property
    def journals(self) -> int:
        return self.bodies + _pages(RECORD_BYTES * self.records)

    @property
    def size(self) -> int:
        return self.journals + _pages(_JOURNAL_AREA * self.records)


class Ledger:
    """The whole map.

    Args:
        seats: how many processes may be wanted at once.
        records: activities one incarnation may hold at once.
    """

    def __init__(self, *, seats: int, records: int) -> None:
        layout = _Layout(records)
        berths = 2 * seats + 4  # an old and a new incarnation of each seat, and some that are being settled
        totals = _pages(_PAGE + 2 * _TOKEN_AREA)
        first = totals + _pages(8 * len(SeatTotal) * seats)
        self._map = mmap.mmap(
            -1,
            first + berths * layout.size,
            flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
        )
        self._cells = memoryview(self._map).cast("Q")
        self._totals = memoryview(self._map)[totals:first].cast("Q")
        self.seats = seats
        self.berths = tuple(
            Berth(self._map, first + number * layout.size, layout, number) for number in range(berths)
        )

    def seat_total(self, seat: int, total: SeatTotal) -> int:
        """What the seat's settled incarnations have counted."""
        return self._totals[len(SeatTotal) * seat + total]

    def ended_total(self, total: SeatTotal) -> int:
        """The same over all seats."""
        return sum(self._totals[total : len(SeatTotal) * self.seats : len(SeatTotal)])

    def absorb(self, berth: Berth) -> None:
        """Adds an ended incarnation's counters to its seat's totals; only the keeper may, before `settled`."""
        if berth.readable:
            for total in SeatTotal:
                self._totals[len(SeatTotal) * berth.get(Cell.SEAT) + total] += berth.get(Cell[total.name])

    def free_berth(self) -> Berth | None:
        """A berth for a new incarnation, None while all are in use or being settled."""
        return next((berth for berth in self.berths if berth.life is Life.FREE), None)

    def get(self, cell: Host) -> int:
        """Reads one of the host's cells."""
        return self._cells[cell]

    def put(self, cell: Host, value: int) -> None:
        """Stores one of the host's cells; only its writer may."""
        self._cells[cell] = value

    def publish_token(self, token: str) -> int:
        """Makes `token` the host's bearer and returns its version; only the keeper may (one token per host, R13).

        Two areas take turns, so that a reader of the previous version is never overwritten.
        """
        data = token.encode()
        if len(data) > _TOKEN_BYTES:
            raise ValueError(f"the access token has {len(data)} bytes; at most {_TOKEN_BYTES} are supported")
        version = self._cells[Host.TOKEN_VERSION] + 1
        offset = _PAGE + (version % 2) * _TOKEN_AREA
        self._map[offset : offset + 8 + len(data)] = _CRC.pack(len(data), zlib.crc32(data)) + data
        self._cells[Host.TOKEN_VERSION] = version
        return version

    def token(self) -> tuple[int, str]:
        """The host's bearer and its version; (0, "") before the first."""
        version = self._cells[Host.TOKEN_VERSION]
        if not version:
            return 0, ""
        data = _read_checked(self._map, _PAGE + (version % 2) * _TOKEN_AREA, _TOKEN_BYTES)
        return (version, data.decode()) if data is not None else (0, "")


def _read_checked(map_: mmap.mmap, offset: int, limit: int) -> bytes | None:
    length, crc = _CRC.unpack(map_[offset : offset + 8])
    if length > limit:
        return None
    data = map_[offset + 8 : offset + 8 + length]
    return data if zlib.crc32(data) == crc else None


class Berth:
    """The memory of one incarnation: what anybody may read, and the cells that supervisor and keeper write."""

    def __init__(self, map_: mmap.mmap, offset: int, layout: _Layout, number: int) -> None:
        self._map = map_
        self._offset = offset
        self._layout = layout
        self.number = number
        self.capacity = layout.records
        self._cells = self._view(0, 64, "Q")
        self._clocks = self._view(0, 128, "d")
        self._states = memoryview(map_)[offset + layout.states :][: layout.records]
        self._verdicts = self._view(layout.verdicts, layout.records, "Q")
        self._last_ok = self._view(layout.last_ok, layout.records, "d")
        self._times = self._view(layout.times, 2 * layout.records, "d")

    def __repr__(self) -> str:
        get = self.get
        return (
            f"<Berth {self.number} {self.life.value}, seat {get(Cell.SEAT)}.{get(Cell.INCARNATION)}, "
            f"{sum(1 for _ in self.records())} records>"
        )

    def _view(self, area: int, count: int, kind: str) -> memoryview:
        start = self._offset + area
        return memoryview(self._map)[start : start + 8 * count].cast(kind)  # type: ignore[call-overload, no-any-return]

    def get(self, cell: Cell) -> int:
        """Reads a whole number."""
        return self._cells[cell]

    def put(self, cell: Cell, value: int) -> None:
        """Stores a whole number; only the cell's writer may."""
        self._cells[cell] = value

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
    def readable(self) -> bool:
        """Whether the records belong to the present incarnation, and not to the one before."""
        return self._cells[Cell.OPENED] == self._cells[Cell.STARTED]

    def open(self, *, seat: int, incarnation: int, now: float) -> None:
        """FREE → LIVE, by the supervisor, before it forks."""
        assert self.life is Life.FREE, self
        for cell in (Cell.CAUSE, Cell.EXIT_STATUS, Cell.PID):
            self._cells[cell] = 0
        self._cells[Cell.SEAT] = seat
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
        self._cells[Cell.SETTLED] = self._cells[Cell.ENDED]

    def records(self) -> Iterator[Record]:
        """Consistent copies of all records that are not FREE; torn ones are left for the next scan."""
        if not self.readable:
            return
        states = bytes(self._states[: min(self._cells[Cell.HIGH_WATER], self.capacity)])
        for index, state in enumerate(states):
            if state and (record := self.record(index)) is not None:
                yield record

    def record(self, index: int) -> Record | None:
        """One record, or None while it is free or being changed."""
        state = self._states[index]
        start = self._offset + self._layout.bodies + index * RECORD_BYTES
        body = self._map[start : start + RECORD_BYTES]
        crc, id_len, worker_len, name_len, sequence, claimed_at, lease_s = _RECORD_HEAD.unpack_from(body)
        end = _RECORD_HEAD.size + id_len + worker_len + name_len
        started_at, limit_s = self._times[2 * index], self._times[2 * index + 1]
        if not state or end > RECORD_BYTES or zlib.crc32(body[4:end]) != crc or self._states[index] != state:
            return None
        text = body[_RECORD_HEAD.size : end]
        return Record(
            index=index,
            state=State(state),
            sequence=sequence,
            activity_id=text[:id_len].decode(),
            worker_id=text[id_len : id_len + worker_len].decode(),
            name=text[id_len + worker_len :].decode(errors="replace"),
            claimed_at=claimed_at,
            lease_s=lease_s,
            started_at=started_at,
            limit_s=limit_s,
        )

    def journal(self, index: int) -> bytes | None:
        """The kept completion of a REPORTING record, None when there is none or it does not check."""
        start = self._offset + self._layout.journals + index * _JOURNAL_AREA
        return _read_checked(self._map, start, JOURNAL_BYTES) or None

    def judge(self, record: Record, standing: Standing, last_ok: float) -> None:
        """Writes the keeper's verdict; `last_ok` is when the engine last confirmed the lease."""
        self._last_ok[record.index] = last_ok
        self._verdicts[record.index] = record.sequence << 2 | standing

    def standing(self, index: int, sequence: int) -> Standing:
        """The keeper's verdict on a record, UNKNOWN if it was about an earlier one in the same place."""
        verdict = self._verdicts[index]
        return Standing(verdict & 3) if verdict >> 2 == sequence else Standing.UNKNOWN


class RecordBook:
    """The worker's pen: the only writer of its berth's records and worker cells."""

    def __init__(self, berth: Berth) -> None:
        self.berth = berth
        self._map = berth._map  # noqa: SLF001 - one module, two views of one berth
        self._states = berth._states  # noqa: SLF001 - as above
        self._times = berth._times  # noqa: SLF001 - as above
        layout = berth._layout  # noqa: SLF001 - as above
        self._bodies = berth._offset + layout.bodies  # noqa: SLF001 - as above
        self._journals = berth._offset + layout.journals  # noqa: SLF001 - as above
        self._sequence = berth.get(Cell.STARTED) << 40
        self._free = list(range(berth.capacity - 1, -1, -1))
        self._states[:] = bytes(berth.capacity)
        for cell in Cell:
            if cell > Cell.OPENED:
                berth.put(cell, 0)
        for clock in Clock:
            if clock > Clock.STARTED_AT:
                berth.set_clock(clock, 0.0)
        berth.put(Cell.OPENED, berth.get(Cell.STARTED))

    @property
    def free(self) -> int:
        """How many more activities fit; a poll asks for at most this many."""
        return len(self._free)

    def claim(
        self, activity_id: str, worker_id: str, name: str, *, now: float, lease_s: float
    ) -> tuple[int, int]:
        """Writes a CLAIMED record before the handler starts and returns its index and sequence.

        Raises:
            LedgerFull: no record is free, or the identifiers are longer than a record.
        """
        if not self._free:
            raise LedgerFull(f"all {self.berth.capacity} records are taken")
        id_bytes, worker_bytes = activity_id.encode(), worker_id.encode()
        room = RECORD_BYTES - _RECORD_HEAD.size - len(id_bytes) - len(worker_bytes)
        if room < 0:
            raise LedgerFull(
                f"activity_id and worker_id of {len(id_bytes)} + {len(worker_bytes)} bytes are too long"
            )
        name_bytes = name.encode(errors="replace")[:room]
        self._sequence += 1
        lengths = (len(id_bytes), len(worker_bytes), len(name_bytes))
        body = (
            _RECORD_HEAD.pack(0, *lengths, self._sequence, now, lease_s)
            + id_bytes
            + worker_bytes
            + name_bytes
        )
        index = self._free.pop()
        start = self._bodies + index * RECORD_BYTES
        self._map[start : start + len(body)] = zlib.crc32(body[4:]).to_bytes(4, "little") + body[4:]
        if index >= self.berth.get(Cell.HIGH_WATER):
            self.berth.put(Cell.HIGH_WATER, index + 1)
        self._states[index] = State.CLAIMED
        return index, self._sequence

    def running(self, index: int, *, now: float, limit_s: float) -> None:
        """CLAIMED → RUNNING: the limit begins."""
        self._times[2 * index] = now
        self._times[2 * index + 1] = limit_s
        self._states[index] = State.RUNNING

    def times(self, index: int) -> tuple[float, float]:
        """When a RUNNING record's limit began, and its length in seconds."""
        return self._times[2 * index], self._times[2 * index + 1]

    def reporting(self, index: int, completion: bytes | None) -> None:
        """→ REPORTING; `completion` is what `complete` will send, kept if it fits, so that a crash cannot lose it."""
        start = self._journals + index * _JOURNAL_AREA
        kept = completion if completion is not None and len(completion) <= JOURNAL_BYTES else b""
        self._map[start : start + 8 + len(kept)] = _CRC.pack(len(kept), zlib.crc32(kept)) + kept
        self._states[index] = State.REPORTING

    def zombie(self, index: int) -> None:
        """→ ZOMBIE: nothing is owed to the engine any more, but the handler still runs."""
        self._states[index] = State.ZOMBIE

    def clear(self, index: int) -> None:
        """→ FREE."""
        self._states[index] = State.FREE
        self._free.append(index)


def records_needed(concurrency: int, poll_max: int) -> int:
    """Records per berth: running, queued, undelivered (4 x slots), and a surplus poll or two."""
    return 5 * concurrency + 3 * poll_max
