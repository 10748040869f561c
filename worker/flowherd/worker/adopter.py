"""A worker's part in adoption: takes what the keeper offers, and begins it on the keeper's word alone.

The protocol is `flowherd.leases.adoption`'s. What is being adopted holds a slot, and is no attempt yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowherd import crashpoints
from flowherd.errors import EngineError, LedgerFull
from flowherd.ledger import Cell, Handler, Host, Standing
from flowherd.worker.attempt import WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flowherd.activities_and_outcomes import Activity
    from flowherd.client.engine_protocol import Engine
    from flowherd.ledger import Ledger, Record, RecordWriter, Segment
    from flowherd.ledger.adoption_cells import KeptReply
    from flowherd.worker.attempt_table import AttemptTable

_OFFERED = Host.OFFERED  # looked at for each poll


class Offers:
    """The keeper's offers to one worker.

    Args:
        ledger: of the host.
        own: the worker's segment.
        wake_keeper: called when one is taken.

    """

    def __init__(self, ledger: Ledger, own: Segment, wake_keeper: Callable[[], None]) -> None:
        self._ledger = ledger
        self._own = own
        self.wake_keeper = wake_keeper
        self._seen = 0

    def are_new(self) -> bool:
        """True when the keeper has offered something to anybody since the last time."""
        made = self._ledger.get(Host.OFFERS)
        if made == self._seen or not self._own.get(Cell.ADOPTS):
            return False
        self._seen = made
        return True

    @property
    def waiting(self) -> int:
        """The number of records of ended processes for which slots should stay free."""
        return self._ledger.get(_OFFERED)

    def look_again(self) -> None:
        """Some of it could not be taken now."""
        self._seen = -1

    def records(self) -> Iterator[tuple[Segment, Record]]:
        """The records that are offered to this worker and not decided yet."""
        for number in self._ledger.segments.ended():
            segment = self._ledger.segments[number]
            for index in segment.adoption.offered_to(self._own.life_number):
                record = segment.record(index)
                if (
                    record is not None
                    and record.is_held
                    and record.handler <= Handler.ADMITTED
                    and not segment.adoption.decision(record)
                ):
                    yield segment, record


class _Reply(NamedTuple):
    """A reply to a dead process's poll: where it is kept here, and what it brought for this worker, by id."""

    kept: KeptReply | None
    activities: Mapping[str, Activity]


class Adopted(NamedTuple):
    """A claim that this worker goes on with."""

    activity: Activity
    place: tuple[int, int]
    claimed_at: float
    from_process: int


class Adopter:
    """Writes ADOPTING records, and hears what becomes of them.

    Args:
        offers: None for a worker that nobody offers anything.
        writer: of this worker.
        engine: reads the replies that others have kept.
        table: of this worker's attempts.
        worker_type: of this worker.
        reached: called at each named place where a test may let it die.

    """

    def __init__(
        self,
        offers: Offers | None,
        writer: RecordWriter,
        engine: Engine,
        table: AttemptTable,
        worker_type: str,
        reached: Callable[[str], object] = crashpoints.reached,
    ) -> None:
        self._reached = reached
        self._offers = offers
        self._writer = writer
        self._engine = engine
        self._table = table
        self._worker_type = worker_type
        self._waiting: dict[int, tuple[Adopted, int]] = {}

    def __repr__(self) -> str:
        return f"<Adopter [{len(self._waiting)} waiting]>"

    @property
    def slots_wanted(self) -> int:
        """Slots that polls should leave free for what is offered to the host."""
        return 0 if self._offers is None else self._offers.waiting

    @property
    def is_waiting(self) -> bool:
        """True while the keeper has not said what becomes of something that this worker would adopt."""
        return bool(self._waiting)

    def look(self) -> None:
        """Takes what is offered, as far as there are slots."""
        if self._offers is None or not self._offers.are_new():
            return
        replies: dict[tuple[int, int], _Reply] = {}
        busy = {one.id for one in self._table.owed()} | {
            one.activity.activity_id for one, _ in self._waiting.values()
        }
        for segment, record in list(self._offers.records()):
            if min(self._table.slots.free, self._table.room) < 1:
                self._offers.look_again()
                break
            if record.activity_id not in busy and self._take(segment, record, replies):
                busy.add(record.activity_id)
        for reply in replies.values():
            if reply.kept is not None:
                self._writer.replies.leave(reply.kept)
        if self._waiting:
            self._offers.wake_keeper()

    def _take(self, segment: Segment, record: Record, replies: dict[tuple[int, int], _Reply]) -> bool:
        """Writes an ADOPTING record; False if what brought it cannot be read, or is not for this worker."""
        place = segment.number, segment.adoption.reply_place(record.index)
        if place not in replies:  # each is decoded and copied once: it may have brought a hundred others
            replies[place] = self._read(segment.adoption.reply(place[1]), record.worker_id)
        reply = replies[place]
        activity = reply.activities.get(record.activity_id)
        if activity is None or activity.worker_id != record.worker_id:
            return False
        self._reached("before_adopting")
        claimed_at = max(record.claimed_at, segment.last_ok(record.index, record.sequence))
        try:
            own = self._writer.claim(
                record.activity_id,
                record.worker_id,
                record.name,
                now=claimed_at,
                lease_s=record.lease_s,
                workflow_id=record.workflow_id,
                key=record.key,
                reply=reply.kept,
                adopted=(record, segment.adoption.adoptions(record.index)),
            )
        except LedgerFull:
            return False
        self._reached("after_adopting")
        self._table.slots.reserve(1)
        adopted = Adopted(activity, own, claimed_at, segment.get(Cell.PROCESS))
        self._waiting[own[0]] = adopted, own[1]
        return True

    def _read(self, reply: bytes | None, worker_id: str) -> _Reply:
        try:
            found = () if reply is None else self._engine.read_reply(reply, worker_id).activities
        except EngineError:
            found = ()
        activities = {one.activity_id: one for one in found if one.worker_type == self._worker_type}
        kept = self._writer.replies.keep(reply) if reply is not None and activities else None
        return _Reply(kept, activities)

    def answered(self) -> Iterator[Adopted | None]:
        """The claims that this worker goes on with, by the keeper's word, and None for one that it lets go.

        Each holds a slot, which the caller gives back.
        """
        for index, (adopted, sequence) in list(self._waiting.items()):
            standing = self._writer.segment.standing(index, sequence)
            if standing is Standing.UNKNOWN:
                continue
            del self._waiting[index]
            if standing is Standing.GOOD and not self._is_claimed_anew(adopted):
                self._writer.waits(index, WAITING)
                self._reached("after_good")
                yield adopted
            else:
                self._writer.clear(index)
                self._reached("after_gone")
                yield None

    def _is_claimed_anew(self, adopted: Adopted) -> bool:
        """A poll has brought it meanwhile: the engine had given up the claim that was to be adopted."""
        return any(one.id == adopted.activity.activity_id for one in self._table.owed())
