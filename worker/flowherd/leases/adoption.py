"""Adoption: another process of the host goes on, under the same worker_id, with what one had not begun when it ended.

No `fail` is sent for it, so it costs no attempt and no delay. The donor is a record of an ENDED segment, which nobody
changes any more; each cell has one writer, and nothing is locked:

    1  keeper   offers the donor to an incarnation that does not stop and has a slot; it may ignore the offer
    2  worker   takes a slot, copies the reply that brought it, and writes a record of its own that names the donor,
                ADOPTING: it gets no heartbeats, and cannot begin
    3  keeper   decides, once for all: the donor's decision is that record, or FAIL
    4  keeper   judges the ADOPTING record GOOD, or GONE when the decision is another one
    5  keeper   judges the donor SETTLED; its segment is freed when all its records are
    6  worker   begins on GOOD, and clears its record on GONE; alone it does neither

Why each donor is adopted or failed, and never both: 3 is one store, of one writer, and comes before either effect. A
record is GOOD only after the decision names it; `fail` is sent only after FAIL. Why it is begun at most once: only the
record that the decision names becomes GOOD, and from then on it reads as a claim of its own process. Why a kill
between any two stores loses nothing: before 3 the donor is undecided, and is offered again; an ADOPTING record of a
process that has died is ignored: no process can begin it. After 3 the next keeper does 4 and 5 before it offers or
settles anything, also when the adopter has died: its record reads as a claim then, and is a donor itself. No segment
is freed before its donors are SETTLED, so what 2 has copied was still the donor's when 3 has named it.

A claim can be adopted if it waits for its first step, is in its process once, and its reply is kept. It is adopted
`MOST_ADOPTIONS` times at most: an activity may kill every process that only reads it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from flowherd import crashpoints
from flowherd.ledger import FINAL, Cell, Handler, Host, Life, Standing
from flowherd.ledger.adoption_cells import FAIL
from flowherd.ledger.attempt_history import End
from flowherd.ledger.segment import RECORD_BITS, SEGMENT_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowherd.ledger import Ledger, Record, Segment

log = structlog.stdlib.get_logger(__name__)

OFFER_S = 0.05  # whoever has not answered by then is asked beside another one
WAITS_S = 5.0  # for a free slot, or for the process that replaces the dead one
MOST_ADOPTIONS = 16


@dataclass(slots=True)
class _Donor:
    """A record that a process may adopt."""

    segment: Segment
    record: Record
    until: float
    again_at: float = 0.0
    asked: Counter[int] = field(default_factory=Counter)  # how often, by the number of a segment
    is_adopted: asyncio.Future[bool] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Adoptions:
    """The keeper's part.

    Args:
        ledger: whose records are offered.
        wake: wakes the worker in a segment.
        clock: monotonic seconds.
        reached: called after each store, with its name.

    """

    def __init__(
        self,
        ledger: Ledger,
        wake: Callable[[int], None],
        clock: Callable[[], float],
        reached: Callable[[str], object] = crashpoints.reached,
    ) -> None:
        self._ledger = ledger
        self._wake = wake
        self._clock = clock
        self._reached = reached
        self._donors: dict[tuple[int, int], _Donor] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Adoptions [{len(self._donors)} offered]>"

    @property
    def waiting(self) -> list[tuple[Segment, Record]]:
        """The records that somebody may still adopt: their leases are kept until then."""
        return [(donor.segment, donor.record) for donor in self._donors.values()]

    def close(self) -> None:
        """Ends all offers, as the host ends."""
        self._is_closed = True

    def attend(self, in_use: Iterable[int] | None = None) -> None:
        """Finishes what is decided, answers who wants to adopt, then offers anew; at each scan, before all else.

        Args:
            in_use: the segments to look at (`Segments.in_use`); None for looking which.

        """
        for number in self._ledger.segments.in_use() if in_use is None else in_use:
            segment = self._ledger.segments[number]
            try:
                for record in segment.adopting():
                    self._answer(segment, record)
            except Exception as error:
                log.error("internal_error", segment=number, exc_info=error)
        self._offer_again()

    def open(self, held: Sequence[tuple[Segment, Record]]) -> None:
        """Offers what can be adopted of an ended process.

        Args:
            held: all that it held, also in other segments.

        """
        claims = Counter(record.activity_id for _, record in held)
        until = self._clock() + WAITS_S
        for segment, record in held:
            if self._is_adoptable(segment, record) and claims[record.activity_id] == 1:
                self._donors[segment.number, record.sequence] = _Donor(segment, record, until)
        self.attend()

    async def adopts(self, segment: Segment, record: Record) -> bool:
        """True once somebody goes on with the record, False once nobody will: it has to be settled then."""
        if segment.adoption.decision(record) > FAIL:  # by a keeper that has died: `attend` has done the rest
            self._settle(segment, record)
            return True
        donor = self._donors.get((segment.number, record.sequence))
        if donor is not None:
            return await donor.is_adopted
        segment.adoption.decide(record, FAIL)
        self._reached("after_decision")
        return False

    def _is_adoptable(self, segment: Segment, record: Record) -> bool:
        cells, index = segment.adoption, record.index
        return (
            record.is_held
            and record.handler <= Handler.ADMITTED
            and cells.reply_place(index) > 0
            and cells.adoptions(index) < MOST_ADOPTIONS
            and not cells.decision(record)
            and segment.standing(index, record.sequence) not in FINAL
        )

    # Answers

    def _answer(self, segment: Segment, record: Record) -> None:
        """Judges an ADOPTING record, if that can be done now."""
        sequence = segment.adoption.origin(record.index)
        donor = self._donors.get((sequence >> RECORD_BITS & (1 << SEGMENT_BITS) - 1, sequence))
        found = (donor.segment, donor.record) if donor is not None else self._ledger.record_of(sequence)
        decision = FAIL if found is None else found[0].adoption.decision(found[1])
        if not decision and donor is not None and segment.life is Life.LIVE and not _is_lost(donor):
            decision = record.sequence
            donor.segment.adoption.decide(donor.record, decision)
            self._reached("after_decision")
        if decision == record.sequence:
            self._judge(segment, record, Standing.GOOD)
            assert found is not None
            self._settle(*found)
        elif decision and segment.life is Life.LIVE:
            self._judge(segment, record, Standing.GONE)

    def _judge(self, segment: Segment, record: Record, standing: Standing) -> None:
        segment.judge(record, standing, record.claimed_at)
        self._reached("after_answer")
        self._wake(segment.number)

    def _settle(self, donor: Segment, origin: Record) -> None:
        if donor.standing(origin.index, origin.sequence) is not Standing.SETTLED:
            now, beat_at = self._clock(), donor.last_ok(origin.index, origin.sequence)
            times = (0.0, now, now, beat_at)
            self._ledger.history.add(origin, times, donor.get(Cell.PROCESS), None, End.ADOPTED)
            donor.judge(origin, Standing.SETTLED, beat_at)
        self._reached("after_adoption")
        self._end(donor, origin, is_adopted=True)

    def _end(self, donor: Segment, origin: Record, *, is_adopted: bool) -> None:
        ended = self._donors.pop((donor.number, origin.sequence), None)
        if ended is not None and not ended.is_adopted.done():
            ended.is_adopted.set_result(is_adopted)

    # Offers

    def _offer_again(self) -> None:
        """Offers what nobody has answered for, and gives up what has waited for too long."""
        self._note_waiting()
        if not self._donors:
            return
        now, rooms = self._clock(), _rooms(self._ledger.segments)
        offered: set[Segment] = set()
        for donor in list(self._donors.values()):
            if self._is_over(donor, now, is_any=bool(rooms)):
                decision = donor.segment.adoption.decide(donor.record, FAIL)
                self._reached("after_decision")
                self._end(donor.segment, donor.record, is_adopted=decision > FAIL)
            elif donor.again_at <= now and (target := _best(rooms, donor.asked)) is not None:
                rooms[target] -= 1
                donor.again_at = now + OFFER_S
                donor.asked[target.number] += 1
                donor.segment.adoption.offer(donor.record.index, target.life_number)
                self._reached("after_offer")
                offered.add(target)
        if offered:
            self._ledger.put(Host.OFFERS, self._ledger.get(Host.OFFERS) + 1)
            for target in offered:
                self._wake(target.number)
        self._note_waiting()

    def _note_waiting(self) -> None:
        """Polls leave room for what waits; once nothing does, they may go on."""
        before, waiting = self._ledger.get(Host.OFFERED), len(self._donors)
        if waiting == before:
            return
        self._ledger.put(Host.OFFERED, waiting)
        if not waiting:
            for number in self._ledger.segments.living():
                self._wake(number)

    def _is_over(self, donor: _Donor, now: float, *, is_any: bool) -> bool:
        cause = donor.segment.cause
        was_stopped = cause is not None and cause.is_planned  # nobody may come in its place
        return self._is_closed or _is_lost(donor) or now >= donor.until or (was_stopped and not is_any)


def _is_lost(donor: _Donor) -> bool:
    """A heartbeat has found that it is somebody else's, or an operator has cancelled it."""
    return donor.segment.standing(donor.record.index, donor.record.sequence) in FINAL


def _rooms(segments: Iterable[Segment]) -> dict[Segment, int]:
    """The free slots of each segment whose worker adopts."""
    return {
        one: one.get(Cell.LIMIT) - one.get(Cell.RUNNING)
        for one in segments
        if one.life is Life.LIVE and one.readable and one.get(Cell.ADOPTS)
    }


def _best(rooms: Mapping[Segment, int], asked: Mapping[int, int]) -> Segment | None:
    """The segment to ask: the least often asked, one whose loop is free, one with most room."""
    roomy = (one for one in rooms if rooms[one] > 0)
    return max(
        roomy,
        key=lambda one: (-asked.get(one.number, 0), not one.get(Cell.ON_LOOP), rooms[one]),
        default=None,
    )
