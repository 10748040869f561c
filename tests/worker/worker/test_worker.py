"""One complete worker on an engine in memory: its work and the orders it obeys."""

from __future__ import annotations

import asyncio
import gc

import pytest
from attempts_kit import Rig, an_activity, surplus
from virtual_time import virtual_time

from flowherd.ledger import Cell, Standing
from flowherd.link.messages import Stopped


@virtual_time
async def test_a_worker_works_a_queue_off() -> None:
    rig = Rig()
    ids = [f"a-{number}" for number in range(50)]
    rig.handlers.end(*ids)
    rig.engine.offer(*(an_activity(id_) for id_ in ids))
    await asyncio.wait_for(rig.engine.settled(*ids), 5.0)
    await asyncio.sleep(0.1)
    assert sorted(call.activity_id for call in rig.engine.of("complete")) == sorted(ids)
    assert rig.segment.get(Cell.COMPLETED) == 50
    assert rig.segment.get(Cell.RUNNING) == 0
    rig.worker.drain(1.0)
    assert (await rig.stopped())[0] == Stopped(0, ())


@virtual_time
async def test_what_is_over_is_freed_at_once_and_not_by_a_collection_of_garbage() -> None:
    """Attempts that refer to themselves in a circle stay until there are hundreds: memory, and time to find them."""
    rig = Rig()
    ids = [f"a-{number}" for number in range(50)]
    gc.collect()
    gc.disable()
    before = _attempts_alive()
    try:
        rig.handlers.end(*ids)
        rig.engine.offer(*(an_activity(id_) for id_ in ids))
        await asyncio.wait_for(rig.engine.settled(*ids), 5.0)
        await asyncio.sleep(0.1)
        assert _attempts_alive() == before
    finally:
        gc.enable()
    rig.worker.drain(1.0)
    await rig.stopped()


def _attempts_alive() -> int:
    """Here and in what other tests have left."""
    return sum(type(one).__name__ in {"RunState", "Attempt"} for one in gc.get_objects())


@virtual_time
async def test_two_workers_live_in_one_process() -> None:
    """No module state."""
    first, second = Rig(), Rig()
    await first.begin("a-1")
    await second.begin("b-1")
    first.worker.release(0.5)
    await first.task
    second.handlers.end("b-1")
    await second.engine.settled("b-1")
    assert len(second.engine.of("complete")) == 1
    second.worker.release(0.5)
    await second.task


@virtual_time
async def test_slots_follow_the_supervisors_order_and_the_segment_says_so() -> None:
    rig = Rig(slots=1)
    rig.engine.script("poll", surplus("a-1", "a-2", "a-3"))
    await asyncio.sleep(0.5)
    assert rig.segment.get(Cell.RUNNING) == 1
    rig.worker.set_slots(2, n=7)
    await asyncio.sleep(0.1)
    assert rig.segment.get(Cell.RUNNING) == 2
    assert (rig.segment.get(Cell.LIMIT), rig.segment.get(Cell.LIMIT_APPLIED)) == (2, 7)
    assert rig.segment.get(Cell.HELD) == 2
    rig.worker.set_slots(0, n=8)
    assert rig.segment.get(Cell.HELD) == 2
    rig.handlers.end("a-1", "a-2")
    await asyncio.sleep(1.0)
    assert rig.segment.get(Cell.HELD) == 1  # the third, which was claimed before
    rig.handlers.end("a-3")
    await asyncio.sleep(1.0)
    assert rig.segment.get(Cell.HELD) == 0
    rig.worker.release(0.5)
    assert (await rig.stopped())[0].released == 0


@virtual_time
async def test_quiet_takes_no_new_work_while_the_old_goes_on() -> None:
    rig = Rig()
    await rig.begin("a-1")
    rig.worker.quiet()
    rig.engine.offer(an_activity("a-2"))
    await asyncio.sleep(30.0)
    assert rig.handlers.running["a-1"] == 1
    assert rig.handlers.begun["a-2"] == 0
    rig.worker.resume()
    await asyncio.sleep(3.0)
    assert rig.handlers.running["a-2"] == 1
    rig.worker.release(0.5)
    await rig.task


@virtual_time
async def test_a_worker_adopts_from_its_first_order_to_its_stop_also_while_polling_is_paused() -> None:
    """What a sibling had not begun is work that the host has already: to requeue it would cost an attempt."""
    rig = Rig()
    rig.worker.wait_for_order()
    assert rig.segment.get(Cell.ADOPTS) == 0
    rig.worker.quiet()
    assert rig.segment.get(Cell.ADOPTS) == 1
    rig.worker.resume()
    assert rig.segment.get(Cell.ADOPTS) == 1
    rig.worker.drain(1.0)
    await rig.task
    rig.worker.quiet()
    assert rig.segment.get(Cell.ADOPTS) == 0


@virtual_time
async def test_a_bell_makes_the_worker_heed_verdicts() -> None:
    rig = Rig()
    await rig.begin("a-1")
    (record,) = rig.segment.records()
    rig.segment.judge(record, Standing.GONE, 0.0)
    rig.worker.heed_verdicts()
    await asyncio.sleep(0.1)
    assert rig.handlers.running["a-1"] == 0
    assert rig.segment.get(Cell.LOST) == 1
    rig.worker.release(0.5)
    await rig.task


@virtual_time
async def test_a_bug_in_the_poller_ends_the_worker_with_it() -> None:
    rig = Rig()
    rig.engine.script("poll", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await rig.task


@virtual_time
async def test_the_representation_is_a_status_line() -> None:
    rig = Rig(slots=1)
    await rig.begin("a-1")
    expected = "<Worker <Attempts [1 owed, <Slots [1 attempts, 0 reserved of 1]>, <Backlog [0 waiting, 0 detached]>]>>"
    assert repr(rig.worker) == expected
    rig.worker.release(0.5)
    await rig.task
