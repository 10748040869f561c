"""The worker's record writer, the only writer of its segment's records and worker cells."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from flowherd import crashpoints
from flowherd.errors import LedgerFull
from flowherd.ledger.adoption_cells import KeptReplies, KeptReply
from flowherd.ledger.checksummed import CHECKSUM, checksummed
from flowherd.ledger.record import CRC_BYTES, RECORD_BYTES, body_of
from flowherd.ledger.segment import JOURNAL_AREA, JOURNAL_BYTES, RECORD_BITS, STATUS_BYTES, Segment
from flowherd.ledger.states_and_cells import (
    IN_THREAD,
    ISOLATED,
    PAIR,
    PLACE,
    TAKEN,
    WAITS_FOR_WORD,
    Cell,
    Claim,
    Clock,
    Handler,
    pair_of,
)

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Failed
    from flowherd.ledger.record import Record

# Module constants, because an enum lookup costs as much as the store, which happens for every activity.
_FREE = 0
_WAITING, _RUNNING, _REPORTING, _CRASHED = (
    TAKEN | pair_of(handler, claim)
    for handler, claim in (
        (Handler.WAITING, Claim.HELD),
        (Handler.RUNNING, Claim.HELD),
        (Handler.ENDED, Claim.REPORTING),
        (Handler.ENDED, Claim.CRASHED),
    )
)
_MOST_PROCESSES = 2**16 - 1  # in an entry of the history
_LASTED_S = 1.0  # no lease is confirmed sooner after its claim, except very short ones
_NOTHING_KEPT = bytes(CHECKSUM.size)


class RecordWriter:
    """Writes the records of one worker; creating it opens the segment for readers.

    Args:
        segment: this process's own segment, LIVE.

    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._map = segment.map
        self._states = segment.states
        self._times = segment.times
        self._bodies = segment.offset + segment.layout.bodies
        self._process = min(segment.get(Cell.PROCESS), _MOST_PROCESSES)
        self._ended = segment.history.ended
        self._journals = segment.offset + segment.layout.journals
        # No verdict of an earlier incarnation can match, nor can deaths in two segments pass for one.
        self._sequence = segment.life_number << RECORD_BITS
        self._free = list(range(segment.capacity - 1, -1, -1))
        self._moved: dict[
            int, int
        ] = {}  # the usage pages of records that have moved from their attempt's first index
        self._high_water = 0
        self._adoption = segment.adoption
        self.replies = KeptReplies(segment.adoption)
        self._kept: list[KeptReply | None] = [None] * segment.capacity
        self._keeps = bytearray(b"\1" * segment.capacity)  # 1: the journal may hold something
        self._states[:] = bytes(segment.capacity)
        for cell in Cell:
            if cell > Cell.OPENED:
                segment.put(cell, 0)
        for clock in Clock:
            if clock > Clock.STARTED_AT:
                segment.set_clock(clock, 0.0)
        segment.clear_timings()
        segment.forget_block()
        segment.work.clear()
        segment.history.resume()
        segment.put(Cell.OPENED, segment.get(Cell.STARTED))

    @property
    def free(self) -> int:
        """The number of free records; a poll requests at most this many activities."""
        return len(self._free)

    def claim(
        self,
        activity_id: str,
        worker_id: str,
        name: str,
        *,
        now: float,
        lease_s: float,
        workflow_id: str = "",
        key: str = "",
        usage: tuple[int, int] | None = None,
        reply: KeptReply | None = None,
        adopted: tuple[Record, int] | None = None,
    ) -> tuple[int, int]:
        """Writes a record in state WAITING, before the handler starts; returns its index and sequence.

        `usage` names the page of an attempt that has been claimed before: place and sequence of its first record.
        `reply` is the one that brought it; `adopted` the record that it would take over, and how often it was adopted.

        Raises:
            LedgerFull: no record is free, or the identifiers are longer than a record.

        """
        if not self._free:
            raise LedgerFull(f"all {self.segment.capacity} records are taken")
        sequence, index = self._sequence + 1, self._free[-1]
        page, first = usage or (index, sequence)
        body = body_of(activity_id, worker_id, name, workflow_id, key, sequence, first, now, lease_s, page)
        self._sequence = sequence
        self._free.pop()
        start = self._bodies + index * RECORD_BYTES
        self._map[start : start + CRC_BYTES + len(body)] = (
            zlib.crc32(body).to_bytes(CRC_BYTES, "little") + body
        )
        if index >= self._high_water:
            self._high_water = index + 1
            self.segment.put(Cell.HIGH_WATER, index + 1)
        self._keep_reply(index, reply, 0 if adopted is None else adopted[1] + 1)
        if adopted is not None:
            self._adoption.note_origin(index, adopted[0].sequence)
        self._states[index] = _WAITING if adopted is None else WAITS_FOR_WORD
        crashpoints.reached("after_claim")
        return index, sequence

    def _keep_reply(self, index: int, reply: KeptReply | None, adoptions: int) -> None:
        """A record names the reply that brought it, until it has begun or ended."""
        self._kept[index] = reply
        if reply is not None:
            reply.users += 1
        self._adoption.note_claim(index, 0 if reply is None else reply.place, adoptions)

    def keeps_reply(self, index: int) -> bool:
        """True while others can read what brought the record."""
        return self._kept[index] is not None

    def _leave_reply(self, index: int) -> None:
        """Nobody can adopt a record any more: its byte says so."""
        if (reply := self._kept[index]) is not None:
            self._kept[index] = None
            self.replies.leave(reply)

    def running(self, index: int, *, now: float, limit_s: float, apart: bool = False) -> None:
        """Stores the start of the handler and its limit; `apart` is True in an isolate."""
        self._times[2 * index] = now
        self._times[2 * index + 1] = limit_s
        self._states[index] = _RUNNING | ISOLATED if apart else _RUNNING
        if self._kept[index] is not None:
            self._leave_reply(index)

    def in_thread(self, index: int) -> None:
        """Stores that a handler that has begun runs in a thread."""
        self._states[index] |= IN_THREAD

    def waits(self, index: int, pair: int) -> None:
        """Stores the state pair of an attempt whose handler has not begun; an ADOPTING record becomes a claim."""
        self._states[index] = TAKEN | pair

    def stands(self, index: int, pair: int) -> None:
        """Stores the state pair of an attempt whose handler has begun, when no other value changes with it."""
        states = self._states
        states[index] = states[index] & PLACE | TAKEN | pair

    def reporting(self, index: int, completion: bytes | None, byte: int = _REPORTING) -> None:
        """Stores REPORTING; `completion`, the body of `complete`, is kept if it fits, so that it survives a crash."""
        crashpoints.reached("after_handler")
        self._keep(index, completion)
        self._states[index] = byte
        if self._kept[index] is not None:
            self._leave_reply(index)
        crashpoints.reached("before_report")

    def crashed(self, index: int, death: str, status: int = 0) -> None:
        """Stores CRASHED and the death of its isolate, in words and as a wait status, which the keeper reports."""
        self._keep(index, status.to_bytes(STATUS_BYTES, "little") + death.encode(errors="replace"))
        self._states[index] = self._states[index] & ISOLATED | _CRASHED

    def _keep(self, index: int, text: bytes | None) -> None:
        """Replaces the record's journal with `text` if it fits, else clears it."""
        start = self._journals + index * JOURNAL_AREA
        if text is not None and len(text) <= JOURNAL_BYTES:
            self._map[start : start + CHECKSUM.size + len(text)] = checksummed(text)
            if not self._keeps[index]:
                self._keeps[index] = 1
        elif self._keeps[index]:
            self._map[start : start + CHECKSUM.size] = _NOTHING_KEPT
            self._keeps[index] = 0

    def move(self, index: int, worker_id: str, *, now: float, completion: bytes | None) -> tuple[int, int]:
        """Moves an attempt to a record with the worker_id of its newest claim; returns its new index and sequence.

        The new record is written before the old one is freed, so that a crash in between loses nothing: the engine
        accepts only the report of the newest claim, and both name the same usage page. When no other record is free the
        old one is freed first: an instant without a record is the lesser evil.
        """
        old = self.segment.record(index)
        assert old is not None, index
        is_only_place = not self._free
        if is_only_place:
            self._leave(index, old.usage_page, stays=True)
        usage = old.usage_page, old.usage_sequence
        place = self.claim(
            old.activity_id,
            worker_id,
            old.name,
            now=now,
            lease_s=old.lease_s,
            workflow_id=old.workflow_id,
            key=old.key,
            usage=usage,
        )
        if place[0] != old.usage_page:
            self._moved[place[0]] = old.usage_page
        if old.is_at_work:
            self.running(place[0], now=old.started_at, limit_s=old.limit_s, apart=old.is_isolated)
            if old.is_in_thread:
                self.in_thread(place[0])
        if old.claim is Claim.REPORTING:
            self.reporting(place[0], completion, old.byte | (IN_THREAD if old.is_in_thread else 0))
        elif old.is_at_work:
            self.stands(place[0], old.byte & PAIR)
        else:
            self.waits(place[0], old.byte & PAIR)
        if not is_only_place:
            self._leave(index, old.usage_page)
        return place

    def _leave(self, index: int, page: int, *, stays: bool = False) -> None:
        """Frees a moved record; its attempt's first index stays taken for the usage page, unless the record `stays`."""
        self._states[index] = _FREE
        self._leave_reply(index)
        self._moved.pop(index, None)
        if stays or index != page:
            self._free.append(index)

    def remember(
        self,
        index: int,
        sequence: int,
        begun_at: float,
        ended_at: float,
        now: float,
        end: int,
        failure: Failed | None,
        *,
        isolated: bool = False,
    ) -> None:
        """Adds a record whose claim has ended to the history; the record may be freed, but not reused yet.

        `failure` is the reported failure, `isolated` is True when its handler ran in an isolate; see
        `AttemptHistory.ended` for the other arguments.
        """
        beat_at = self.segment.last_ok(index, sequence) if now - begun_at > _LASTED_S else 0.0
        body = self._bodies + index * RECORD_BYTES
        self._ended(body, begun_at, ended_at, now, beat_at, self._process, end, failure, isolated)

    def clear(self, index: int) -> None:
        """Frees a record, and with it the usage page of its attempt."""
        self._states[index] = _FREE
        if self._kept[index] is not None:
            self._leave_reply(index)
        self._free.append(index)
        if self._moved and (page := self._moved.pop(index, None)) is not None:
            self._free.append(page)


def records_needed(concurrency: int, poll_max: int) -> int:
    """Returns the records per segment: for running, queued and undelivered attempts (4 x slots), and surplus polls."""
    return 5 * concurrency + 3 * poll_max
