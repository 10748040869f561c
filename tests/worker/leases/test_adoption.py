"""What a dead process had not begun goes to another one, exactly once, whoever dies at whatever store."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from adoption_world import World, reply_with
from virtual_time import now, virtual_time
from worker_kit import open_segment

from flowherd.leases.adoption import OFFER_S, Adoptions
from flowherd.ledger import Cause, Cell, Ledger, Record, RecordWriter, Segment
from flowherd.ledger.adoption_cells import FAIL

BLOCKS = 4


@pytest.mark.timeout(300)  # with --soak
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_claim_is_begun_at_most_once_and_never_lost_whoever_dies_at_whatever_store(
    block: int, request: pytest.FixtureRequest
) -> None:
    """Random histories of processes and keepers that die and go on between any two stores; a failure names its seed."""
    each = 1_000 if request.config.getoption("--soak") else 60
    counts: Counter[str] = Counter()
    for seed in range(block * each, (block + 1) * each):
        world = World(seed)
        try:
            asyncio.run(world.run())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        counts += world.counts
    assert counts["adopted"] > 100
    assert counts["keepers killed"] > 100
    assert counts["not begun"] > 10
    assert counts["lost"] > 10


class Offering:
    """A keeper, living processes with these free slots, and a dead one with a claim in each of some states."""

    def __init__(self, *rooms: int) -> None:
        self.ledger = Ledger(processes=4, records=10)
        self.living = [self._living(room) for room in rooms]
        self.dead = open_segment(self.ledger)
        self.writer = RecordWriter(self.dead)
        self.woken: Counter[int] = Counter()
        self.keeper = Adoptions(self.ledger, self._wake, now)

    def _living(self, room: int) -> Segment:
        segment = open_segment(self.ledger)
        RecordWriter(segment)
        segment.put(Cell.LIMIT, room)
        segment.put(Cell.ADOPTS, 1)
        return segment

    def _wake(self, number: int) -> None:
        self.woken[number] += 1

    def claim(self, activity_id: str, *, is_kept: bool = True) -> int:
        kept = self.writer.replies.keep(reply_with([activity_id])) if is_kept else None
        return self.writer.claim(activity_id, "w-1", "act", now=now(), lease_s=60.0, reply=kept)[0]

    def end(self) -> list[tuple[Segment, Record]]:
        self.dead.end(Cause.SIGNAL, 9)
        held = [(self.dead, record) for record in self.dead.records()]
        self.keeper.open(held)
        return held


@virtual_time
async def test_processes_that_do_not_answer_delay_nothing_while_another_has_a_slot() -> None:
    """Two are frozen and have most room: the third is asked next."""
    host = Offering(4, 4, 1)
    host.claim("a-1")
    host.end()
    for _ in range(2):
        await asyncio.sleep(OFFER_S)
        host.keeper.attend()
    assert [host.woken[segment.number] for segment in host.living] == [1, 1, 1]


@virtual_time
async def test_nothing_is_failed_before_it_is_stored_that_nobody_adopts_it() -> None:
    """So no keeper, also not the next one, can give to a process what the engine has been told of."""
    host = Offering(4)
    host.writer.running(host.claim("begun"), now=now(), limit_s=60.0)
    host.claim("not kept", is_kept=False)
    for segment, record in host.end():
        assert not await host.keeper.adopts(segment, record)
        assert segment.adoption.decision(record) == FAIL
