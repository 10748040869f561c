"""Lost leases, and handlers that outlive their outcome: nothing is reported, the slot comes back last."""

from __future__ import annotations

import asyncio

from attempts_kit import State, Table, an_activity
from virtual_time import virtual_time

from flowherd.errors import EngineUnavailable
from flowherd.ledger import Cell

AWAY = EngineUnavailable("connection refused")


@virtual_time
async def test_a_lost_lease_cancels_the_handler_reports_nothing_and_frees_the_slot() -> None:
    """Faults E12: 409 means that another worker runs it."""
    table = Table()
    table.bring(an_activity())
    await table.rest()
    table.lose("a-1")
    await table.rest()
    assert table.handlers.running["a-1"] == 0
    assert table.engine.calls == []
    assert table.states() == {}
    assert table.slots.held == 0
    assert table.count(Cell.LOST) == 1
    table.check()


@virtual_time
async def test_a_handler_that_ignores_its_stop_keeps_its_slot_until_it_ends() -> None:
    """Faults A8: the handler uses this machine, whichever worker has the lease."""
    table = Table(slots=1)
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    table.lose("a-1")
    await table.rest()
    assert table.states() == {"a-1": State.DETACHED}
    assert table.slots.held == 1
    table.check()
    await asyncio.sleep(3600.0)
    assert table.slots.held == 1
    table.handlers.end("a-1")
    await table.rest()
    assert table.slots.held == 0
    assert table.states() == {}
    assert table.engine.calls == []
    table.check()


@virtual_time
async def test_a_stop_does_not_wait_for_detached_attempts() -> None:
    table = Table()
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    table.lose("a-1")
    await asyncio.wait_for(table.attempts.all_ended(), 0.1)
    table.handlers.end("a-1")


@virtual_time
async def test_a_lost_lease_of_a_waiting_activity_is_forgotten() -> None:
    table = Table(slots=1)
    table.bring(an_activity("a-1"), an_activity("a-2"))
    await table.rest()
    table.lose("a-2")
    table.handlers.end("a-1")
    await table.rest()
    assert table.handlers.begun["a-2"] == 0
    assert [id_ for id_, _ in table.told("complete")] == ["a-1"]
    table.check()


@virtual_time
async def test_a_verdict_about_what_is_being_reported_is_left_to_the_delivery() -> None:
    """Only the engine's answer to `complete` itself says whether it was taken."""
    table = Table()
    table.engine.script("complete", *[AWAY] * 2)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    table.lose("a-1")
    await asyncio.sleep(10.0)
    assert table.count(Cell.COMPLETED) == 1
    table.check()


@virtual_time
async def test_a_time_out_is_reported_while_its_handler_still_holds_the_slot() -> None:
    """Faults A7, A8, A9: reported at the deadline, the late success dropped, the slot freed at the end."""
    table = Table(slots=1, cancel_grace_s=1.0)
    table.bring(an_activity(name="stubborn", timeout_s=10.0))
    await asyncio.sleep(12.0)
    (call,) = table.engine.of("fail")
    assert call.body["error"]["code"] == "TIMEOUT"
    assert table.states() == {"a-1": State.DETACHED}
    assert table.slots.held == 1
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.slots.held == 0
    assert table.engine.of("complete") == []
    table.check()
