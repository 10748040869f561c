"""The end of a worker: what has not ended is given back, what has is delivered, and no call is cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest
from attempts_kit import State, Table, an_activity
from msgspec.structs import replace
from virtual_time import now, virtual_time

from flowherd.client.engine_protocol import Batch, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.ledger import Cell
from flowherd.ledger.permits import OwnPermits, Permit

AWAY = EngineUnavailable("connection refused")


def codes(table: Table) -> dict[str, str]:
    return {call.activity_id: call.body["error"]["code"] for call in table.engine.of("fail")}


@virtual_time
async def test_running_and_waiting_work_is_given_back_as_retryable() -> None:
    """Faults P2: the engine hands it out again after its delay, not after the lease."""
    table = Table(slots=2)
    table.bring(*(an_activity(f"a-{number}") for number in range(4)))
    await table.rest()
    await table.attempts.release(last_chance_s=0.2)
    await asyncio.wait_for(table.attempts.all_ended(), 1.0)
    assert codes(table) == {f"a-{number}": "WORKER_SHUTDOWN" for number in range(4)}
    assert all(call.body["error"]["retryable"] for call in table.engine.of("fail"))
    assert table.attempts.released == 4
    assert table.handlers.begun["a-2"] == 0
    assert table.states() == {}
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_a_handler_that_ignores_its_stop_is_released_anyway() -> None:
    table = Table()
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    await table.attempts.release(last_chance_s=0.2)
    await table.rest()
    assert codes(table) == {"a-1": "WORKER_SHUTDOWN"}
    assert table.attempts.released == 1
    assert table.states() == {"a-1": State.DETACHED}
    table.check()
    table.handlers.end("a-1")
    await table.rest()
    assert table.engine.of("complete") == []
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_what_has_just_ended_is_delivered_and_not_given_back() -> None:
    """The outcome is known in the very moment of the release: it must not be thrown away."""
    table = Table()
    table.bring(an_activity())
    await table.rest()
    table.handlers.end("a-1")
    for _ in range(3):
        await asyncio.sleep(0)
    await table.attempts.release(last_chance_s=0.2)
    await table.rest()
    assert len(table.engine.of("complete")) + len(table.engine.of("fail")) == 1
    assert table.attempts.released == len(table.engine.of("fail"))
    table.check()


@virtual_time
async def test_what_is_being_delivered_goes_on_being_delivered() -> None:
    table = Table()
    table.engine.script("complete", *[AWAY] * 3)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    await table.attempts.release(last_chance_s=0.2)
    assert table.attempts.released == 0
    await table.attempts.all_ended()
    assert len(table.engine.of("complete")) == 4
    assert table.engine.of("fail") == []


@virtual_time
async def test_one_that_waits_for_its_detached_is_given_back_too() -> None:
    table = Table()
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    table.lose("a-1")
    table.bring(an_activity(name="stubborn"))
    await table.rest()
    await table.attempts.release(last_chance_s=0.2)
    await asyncio.wait_for(table.attempts.all_ended(), 1.0)
    assert codes(table) == {"a-1": "WORKER_SHUTDOWN"}
    assert table.handlers.begun["a-1"] == 1
    table.check()
    table.handlers.end("a-1")
    await table.rest()


@virtual_time
async def test_what_a_poll_brings_after_the_release_is_given_back_at_once() -> None:
    """The reply of a poll under way: no other process knows of these claims."""
    table = Table()
    await table.attempts.release(last_chance_s=0.2)
    worker_id = table.bring(an_activity())
    await table.rest()
    assert table.told("fail") == [("a-1", worker_id)]
    assert table.attempts.released == 1
    assert table.handlers.begun["a-1"] == 0
    assert table.slots.held == 0
    table.check()


@virtual_time
async def test_an_abandoned_delivery_leaves_its_record_to_the_keeper_and_ends_after_its_call() -> None:
    """The time is up: the kept result stays in the ledger, and no call is cut in half."""
    table = Table()
    answered = asyncio.Event()

    async def hang() -> None:
        await answered.wait()
        raise AWAY

    table.engine.script("complete", hang)
    table.bring(an_activity())
    table.handlers.end("a-1")
    await table.rest()
    table.attempts.abandon()
    answered.set()
    await asyncio.sleep(60.0)
    assert len(table.engine.of("complete")) == 1
    assert table.states() == {"a-1": State.REPORTING}
    assert table.attempts.undelivered == ("a-1",)


@pytest.mark.parametrize("seed", range(25))
@virtual_time
async def test_slots_records_and_counts_come_back_whatever_happens_in_whatever_order(seed: int) -> None:
    """A random life: claims, repeated claims, lost leases, endings, outages, conflicts, then a release."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    table = Table(slots=3, records=8, cancel_grace_s=0.5)
    ids = [f"a-{number}" for number in range(6)]
    for _ in range(150):
        activity_id = rng.choice(ids)
        match rng.choice(["bring", "bring", "bring many", "end", "end", "lose", "trouble", "wait", "rest"]):
            case "bring":
                table.handlers.ends.pop(activity_id, None) if not table.handlers.running[
                    activity_id
                ] else None
                name = rng.choice(["work", "fail", "stubborn"])
                table.bring(an_activity(activity_id, name, timeout_s=rng.choice([1.0, 60.0])))
            case "bring many":
                table.bring(*(an_activity(id_, "fail") for id_ in rng.choices(ids, k=5)))
            case "end":
                table.handlers.end(activity_id)
            case "lose":
                table.lose(activity_id)
            case "trouble":
                verb = rng.choice(["complete", "fail"])
                steps = [AWAY, Verdict.GONE, Verdict.UNKNOWN, Verdict.REFUSED]
                table.engine.script(verb, *rng.choices(steps, k=2))
            case "wait":
                await asyncio.sleep(rng.uniform(0.0, 2.0))
            case _:
                await table.rest()
        await table.rest()
        table.check()
    await table.attempts.release(last_chance_s=0.2)
    await asyncio.wait_for(table.attempts.all_ended(), 300.0)
    table.handlers.end(*ids)
    await table.rest()
    await asyncio.sleep(10.0)
    table.check()
    assert table.states() == {}
    assert table.writer.free == table.segment.capacity
    assert table.slots.held == 0
    assert table.count(Cell.RUNNING) == 0


@virtual_time
async def test_what_has_not_begun_is_left_to_others_when_they_go_on_and_can_read_it() -> None:
    """Its record stays until this process has ended, and is adopted then: no attempt is lost by a reload."""
    table = Table(slots=1)
    for number, reply in enumerate((b"", b"{}", b"{}")):
        batch = Batch([replace(an_activity(f"a-{number}"), worker_id=f"t-{number}")], [], reply)
        table.attempts.polled(table.attempts.reserve(1), batch, asked_at=now())
    table.bring(an_activity("a-3"))
    await table.rest()
    await table.attempts.release(last_chance_s=0.2, others_go_on=True)
    await asyncio.wait_for(table.attempts.all_ended(), 1.0)
    assert codes(table) == {"a-0": "WORKER_SHUTDOWN", "a-3": "WORKER_SHUTDOWN"}
    assert table.states() == {"a-1": State.CLAIMED, "a-2": State.CLAIMED}
    assert table.handlers.begun.total() == 1
    assert table.slots.held == 0


@virtual_time
async def test_what_has_a_slot_and_waits_for_a_permit_is_left_to_others_too() -> None:
    """It must not begin here when the permit comes."""
    permits = OwnPermits()
    table = Table(permits=permits)

    async def limited() -> None:
        raise AssertionError("it begins here")

    table.handlers.registry.register(limited, max_concurrent=1)
    permit = permits.take("limited", range(1))
    assert isinstance(permit, Permit)
    batch = Batch([replace(an_activity(name="limited"), worker_id="t-1")], [], b"{}")
    table.attempts.polled(table.attempts.reserve(1), batch, asked_at=now())
    await table.rest()
    assert table.count(Cell.RUNNING) == 1
    await table.attempts.release(last_chance_s=0.2, others_go_on=True)
    permits.give_back(permit)
    table.executors.permits_changed()
    await table.rest()
    assert table.states() == {"a-1": State.CLAIMED}
    assert table.count(Cell.RUNNING) == 0
    assert codes(table) == {}
