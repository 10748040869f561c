"""Suspects run in isolates where there are any, and a crash in one is settled while its worker goes on."""

from __future__ import annotations

import asyncio
from typing import Any

from attempts_kit import Isolates, State, Table, an_activity
from virtual_time import virtual_time

from flowherd.activities_and_outcomes import Completed, Died
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Cause, Cell
from flowherd.ledger.permits import OwnPermits
from flowherd.settings.worker_config import WorkerConfig

KILLED = Died("its isolate was killed by SIGKILL")


def suspicious(*activity_ids: str, deaths: int = 1, **options: Any) -> Table:
    """A table with isolates, after processes have died with these activities."""
    table = Table(slots=4, isolates=Isolates(), **options)
    for number, activity_id in enumerate(activity_ids):
        for death in range(deaths):
            table.ledger.crash_history.charge(activity_id, f"death {death}", 10 * number + death + 1)
    return table


def keep(table: Table, poison_after: int = 3) -> LeaseKeeper:
    """A keeper that sends heartbeats and settles until the test ends."""
    loop = asyncio.get_running_loop()
    config = WorkerConfig(poison_after=poison_after)
    keeper = LeaseKeeper(
        table.engine, table.engine, table.ledger, config, lambda _: table.attempts.heed_verdicts(), loop.time
    )
    table.keeping = loop.create_task(keeper.run())  # type: ignore[attr-defined]
    return keeper


@virtual_time
async def test_suspects_run_in_isolates_beside_each_other_and_beside_all_others() -> None:
    """A crash there costs no other activity an attempt, so none has to wait."""
    table = suspicious("a", "b")
    table.bring(*(an_activity(id_) for id_ in ("a", "x", "b")))
    await table.rest()
    assert set(table.isolates.runs) == {"a", "b"}
    assert table.handlers.running == {"x": 1}
    assert table.states() == {"a": State.ISOLATED, "b": State.ISOLATED, "x": State.RUNNING}
    table.isolates.end("a", Completed(b"{}"))
    await table.rest()
    assert table.told("complete") == [("a", "t-1")]
    assert table.attempts.room > 1
    table.check()


@virtual_time
async def test_n13_the_limit_of_suspects_in_isolates_is_one_for_all_processes_of_a_host() -> None:
    """N13: each process alone lets as many begin; those that have no permit wait for one of any process."""
    host = OwnPermits()
    first, second = (suspicious(*"abcd", permits=host, suspects_at_once=2) for _ in range(2))
    first.bring(an_activity("a"), an_activity("b"))
    second.bring(an_activity("c"), an_activity("d"))
    for table in (first, second):
        await table.rest()
    assert (set(first.isolates.runs), set(second.isolates.runs)) == ({"a", "b"}, set())
    first.isolates.end("a", Completed(b"{}"))
    await first.rest()
    second.executors.permits_changed()
    await second.rest()
    assert (set(first.isolates.runs), set(second.isolates.runs)) == ({"b"}, {"c"})
    second.isolates.end("c", Completed(b"{}"))
    await second.rest()
    for table, left in ((first, "b"), (second, "d")):
        assert set(table.isolates.runs) == {left}
        table.check()


@virtual_time
async def test_without_isolates_a_suspect_runs_alone() -> None:
    table = Table(slots=4)
    table.ledger.crash_history.charge("a", "death", 1)
    table.bring(an_activity("x"), an_activity("a"))
    await table.rest()
    assert table.handlers.running == {"x": 1}
    table.handlers.end("x")
    await table.rest()
    assert table.handlers.running["a"] == 1
    assert table.attempts.room == 0
    table.check()


@virtual_time
async def test_the_keeper_settles_what_has_died_in_an_isolate_and_the_worker_goes_on() -> None:
    """The report equals that of a crashed process; the slot is free at once."""
    table = suspicious("a")
    keep(table)
    table.bring(an_activity("a"), an_activity("x"))
    await table.rest()
    table.isolates.end("a", KILLED)
    await table.rest()
    assert table.slots.held == 1
    table.check()
    await asyncio.sleep(1.0)  # virtual time, in which the keeper settles it
    (call,) = table.engine.of("fail")
    assert call.body["error"] == {"code": "WORKER_CRASHED", "message": KILLED.how, "retryable": True}
    assert table.states() == {"x": State.RUNNING}
    assert (table.count(Cell.FAILED), table.count(Cell.LOST)) == (1, 0)
    assert table.ledger.crash_history.charges("a").deaths == ("death 0", KILLED.how)
    table.check()


@virtual_time
async def test_c22_the_death_that_makes_it_poison_ends_it_for_good_naming_all() -> None:
    table = suspicious("a", deaths=2)
    keep(table)
    table.bring(an_activity("a"))
    await table.rest()
    table.isolates.end("a", KILLED)
    await asyncio.sleep(1.0)  # virtual time, in which the keeper settles it
    (call,) = table.engine.of("fail")
    assert (call.body["error"]["code"], call.body["error"]["retryable"]) == ("POISON", False)
    assert "death 0; death 1; its isolate was killed by SIGKILL" in call.body["error"]["message"]


@virtual_time
async def test_what_runs_apart_is_not_charged_for_the_death_of_its_worker() -> None:
    """Whatever killed that process, it was not what ran in another one."""
    table = suspicious("a")
    table.bring(an_activity("a"), an_activity("x"))
    await table.rest()
    table.segment.end(Cause.SIGNAL, 9)
    keep(table)
    await asyncio.sleep(1.0)  # virtual time, in which the keeper settles it
    assert {call.activity_id for call in table.engine.of("fail")} == {"a", "x"}
    assert table.ledger.crash_history.charges("a").count == 1
    assert table.ledger.crash_history.charges("x").count == 1


@virtual_time
async def test_a_worker_that_ends_before_the_verdict_leaves_the_death_to_be_settled() -> None:
    table = suspicious("a")
    table.bring(an_activity("a"))
    await table.rest()
    table.isolates.end("a", KILLED)
    await table.rest()
    table.segment.end(Cause.STOP, 0)
    keep(table)
    await asyncio.sleep(1.0)  # virtual time, in which the keeper settles it
    (call,) = table.engine.of("fail")
    assert call.body["error"]["message"] == KILLED.how


@virtual_time
async def test_e18_an_activity_that_comes_again_after_its_isolate_died_runs_anew() -> None:
    """Its failure has arrived then, even without a reply."""
    table = suspicious("a")
    table.bring(an_activity("a"))
    await table.rest()
    table.isolates.end("a", KILLED)
    await table.rest()
    table.bring(an_activity("a"))
    await table.rest()
    assert set(table.isolates.runs) == {"a"}
    assert table.states() == {"a": State.ISOLATED}
    table.check()
