"""A worker that is offered what a dead sibling had not begun: slots, records and the loop's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adoption_world import reply_with
from attempts_kit import State, Table, an_activity
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import open_segment

from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.leases.adoption import Adoptions
from flowherd.ledger import Cause, Cell, RecordWriter
from flowherd.ledger.adoption_cells import FAIL
from flowherd.testing import FakeEngine

if TYPE_CHECKING:
    from flowherd.client.engine_protocol import Batch


class Reader(FakeEngine):
    """An engine whose client reads replies, and counts that."""

    reads = 0

    def read_reply(self, reply: bytes, worker_id: str) -> Batch:
        self.reads += 1
        return decode_batch(reply, worker_id)


class Bereaved:
    """A worker, a sibling that has died with claims of one poll, and a keeper that offers them."""

    def __init__(self, *activity_ids: str, slots: int = 4) -> None:
        self.engine = Reader()
        self.table = Table(slots=slots, engine=self.engine, adopts=True, worker_type="py")
        self.donor = open_segment(self.table.ledger, index=1)
        writer = RecordWriter(self.donor)
        kept = writer.replies.keep(reply_with(activity_ids, "work"))
        assert kept is not None
        for id_ in activity_ids:
            writer.claim(id_, "dead-1", "work", now=now(), lease_s=60.0, reply=kept)
        self.donor.end(Cause.SIGNAL, 9)
        self.held = [(self.donor, record) for record in self.donor.records()]
        self.keeper = Adoptions(self.table.ledger, lambda _: None, now)

    def is_offered(self) -> None:
        """The keeper offers all of it, and the worker looks."""
        self.keeper.open(self.held)
        self.table.attempts.heed_verdicts()

    def is_answered(self) -> None:
        """The keeper answers, and the worker is woken."""
        self.keeper.attend()
        self.table.attempts.heed_verdicts()

    @property
    def slots_in_use(self) -> int:
        """As the supervisor reads them."""
        return self.table.count(Cell.HELD)


@virtual_time
async def test_what_a_dead_sibling_had_not_begun_runs_here_under_its_claim() -> None:
    host = Bereaved("a-1", "a-2")
    host.is_offered()
    with capture_logs() as logs:
        host.is_answered()
    await host.table.rest()
    assert host.table.states() == {"a-1": State.RUNNING, "a-2": State.RUNNING}
    assert [(line["event"], line["from_process"]) for line in logs] == [("activity_adopted", 1)] * 2
    assert [line["activity_id"] for line in logs] == ["a-1", "a-2"]
    assert all({"name", "workflow_id", "activity_key", "seen"} <= line.keys() for line in logs)
    host.table.handlers.end("a-1", "a-2")
    await host.table.rest()
    assert host.table.told("complete") == [("a-1", "dead-1"), ("a-2", "dead-1")]
    assert host.slots_in_use == 0


@virtual_time
async def test_the_slot_of_what_may_be_adopted_counts_before_the_keeper_has_answered() -> None:
    """Else the supervisor gives it to another process when this one retires: more would run than the host may."""
    host = Bereaved("a-1", "a-2")
    host.is_offered()
    assert host.slots_in_use == 2


@virtual_time
async def test_a_slot_that_an_adoption_gives_back_is_given_up_when_the_limit_has_fallen_meanwhile() -> None:
    """A process that retires would hold it to its end."""
    host = Bereaved("a-1")
    host.is_offered()
    host.table.attempts.resize(0)
    assert host.slots_in_use == 1
    [(donor, record)] = host.held
    donor.adoption.decide(record, FAIL)
    host.is_answered()
    assert host.table.states() == {}
    assert host.slots_in_use == 0


@virtual_time
async def test_what_may_be_adopted_begins_although_the_limit_has_fallen_meanwhile() -> None:
    host = Bereaved("a-1")
    host.is_offered()
    host.table.attempts.resize(0)
    host.is_answered()
    await host.table.rest()
    assert host.table.states() == {"a-1": State.RUNNING}


@virtual_time
async def test_a_reply_that_brought_many_is_decoded_once_for_all_of_them() -> None:
    """A hundred decodings of 1 MiB would keep the loop for a quarter of a second."""
    host = Bereaved(*(f"a-{number}" for number in range(4)))
    host.is_offered()
    host.is_answered()
    await host.table.rest()
    assert len(host.table.states()) == 4
    assert host.engine.reads == 1


@virtual_time
async def test_a_claim_that_a_poll_has_brought_again_is_not_adopted_beside_it() -> None:
    """Its lease had lapsed: the engine takes a report under the newest claim alone."""
    host = Bereaved("a-1")
    host.is_offered()
    host.table.bring(an_activity(), poll="newest")
    host.is_answered()
    await host.table.rest()
    assert host.table.states() == {"a-1": State.RUNNING}
    assert host.slots_in_use == 1
    host.table.handlers.end("a-1")
    await host.table.rest()
    assert host.table.told("complete") == [("a-1", "newest")]
    assert host.table.handlers.begun["a-1"] == 1
