"""Which claimed activities wait for the others on the loop, and for how long."""

from __future__ import annotations

import asyncio

from attempts_kit import Table, an_activity
from virtual_time import virtual_time

from flowherd.execution.loop_meter import BLOCKER_S
from flowherd.ledger import Cell
from flowherd.worker.admission import COURTESY_S


async def met(*names: str) -> Table:
    """A table that has seen one activity of each name."""
    table = Table(slots=8)
    for name in names:
        id_ = f"first {name}"
        table.handlers.end(id_)
        table.bring(an_activity(id_, name))
        await table.rest()
    assert not table.attempts._table._owed
    return table


def running(table: Table) -> set[str]:
    return {id_ for id_, number in table.handlers.running.items() if number}


@virtual_time
async def test_the_first_of_a_name_lets_what_is_on_the_loop_end() -> None:
    """It may block the loop for seconds, which is still unknown, and earlier handlers would wait with it."""
    table = await met("work")
    table.bring(an_activity("new", "fail"), an_activity("light"))
    await table.rest()
    assert running(table) == {"light"}
    assert table.attempts.room, "polls go on"
    table.handlers.end("light")
    await table.rest()
    assert running(table) == {"new"}
    assert table.attempts.room
    table.check()


@virtual_time
async def test_it_waits_for_a_moment_only() -> None:
    """Other handlers may wait for hours."""
    table = await met("work")
    table.bring(an_activity("light"))
    table.bring(an_activity("new", "fail"))
    await asyncio.sleep(COURTESY_S * 0.9)
    assert running(table) == {"light"}
    await asyncio.sleep(COURTESY_S * 0.2)
    assert running(table) == {"light", "new"}
    table.check()


@virtual_time
async def test_only_the_first_of_a_name_waits() -> None:
    """Also those that came with it: a batch of one kind starts as one."""
    table = await met("work")
    table.bring(an_activity("light"), *(an_activity(id_, "fail") for id_ in ("x", "y", "z")))
    await asyncio.sleep(COURTESY_S * 1.1)
    assert running(table) == {"light", "x", "y", "z"}
    table.bring(an_activity("later", "fail"))
    await table.rest()
    assert "later" in running(table)


@virtual_time
async def test_a_process_without_work_starts_what_it_does_not_know_at_once() -> None:
    table = Table(slots=4)
    table.bring(*(an_activity(id_) for id_ in ("a", "b", "c")))
    await table.rest()
    assert running(table) == {"a", "b", "c"}


@virtual_time
async def test_what_is_known_to_block_waits_for_as_long() -> None:
    table = await met("work", "fail")
    table.meter.ended("fail", BLOCKER_S, BLOCKER_S)
    table.bring(an_activity("blocker", "fail"), an_activity("light"))
    await asyncio.sleep(COURTESY_S * 0.9)
    assert running(table) == {"light"}
    await asyncio.sleep(COURTESY_S * 0.2)
    assert running(table) == {"light", "blocker"}


@virtual_time
async def test_what_waits_and_is_lost_is_forgotten() -> None:
    """Its timer must not start it after all."""
    table = await met("work")
    table.bring(an_activity("light"), an_activity("new", "fail"))
    table.lose("new")
    await asyncio.sleep(COURTESY_S)
    assert running(table) == {"light"}
    table.check()


@virtual_time
async def test_unknown_names_are_not_stored() -> None:
    """They come from workflows: there may be a new one each time, for months."""
    table = await met("work")
    for number in range(50):
        table.bring(an_activity(f"a-{number}", f"unknown {number}"))
        await table.rest()
    assert len(table.engine.of("fail")) == 50
    assert table.attempts._table._admission._started == {"work"}


@virtual_time
async def test_the_slot_of_a_waiting_attempt_is_not_given_away_when_the_limit_falls() -> None:
    """It begins later, and the host would run more than its budget."""
    table = await met("work")
    table.bring(an_activity("light"), an_activity("new", "fail"))
    await table.rest()
    table.attempts.resize(0)
    promised = table.count(Cell.HELD)
    await asyncio.sleep(COURTESY_S * 1.2)
    assert running(table) == {"light", "new"}
    assert promised == table.count(Cell.HELD) == 2
    table.handlers.end("light")
    await table.rest()
    assert table.count(Cell.HELD) == 1
    table.check()
