"""Blockers beside sleepers: nothing waits for a neighbour that will not end, and a wait that lasts is seen."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from attempts_kit import Rig, Table, an_activity
from structlog.testing import capture_logs
from virtual_time import virtual_time


def rig_with(*handlers: Any, slots: int = 16) -> Rig:
    """A worker on the real clock."""
    rig = Rig(slots=slots, graceful_timeout_s=0.1)
    for handler in handlers:
        rig.handlers.registry.register(handler)
    return rig


async def completed(rig: Rig, *ids: str) -> float:
    """Seconds until the engine has taken them all."""
    begun = time.monotonic()
    async with asyncio.timeout(20):
        for id_ in ids:
            await rig.engine.settled(id_)
    return time.monotonic() - begun


async def end(rig: Rig) -> None:
    rig.worker.release(0.5)
    await rig.task


async def test_twelve_blockers_beside_four_sleepers_take_little_more_than_their_sum() -> None:
    """N11: each waited a second for light neighbours to end, polls stopped, and 1.7 s were 13.7 s."""

    async def sleeper() -> None:
        await asyncio.sleep(25.0)

    async def blocker() -> None:
        time.sleep(0.12)  # noqa: ASYNC251 - what this is about

    rig = rig_with(sleeper, blocker)
    rig.engine.offer(*(an_activity(f"s-{n}", "sleeper") for n in range(4)))
    await asyncio.sleep(0.3)
    rig.engine.offer(an_activity("known", "blocker"))
    await completed(rig, "known")
    ids = [f"b-{n}" for n in range(12)]
    rig.engine.offer(*(an_activity(id_, "blocker") for id_ in ids))
    assert 1.4 <= await completed(rig, *ids) <= 2.2
    await end(rig)


async def test_a_one_time_import_costs_its_time_once() -> None:
    """N11: a first run of 1.5 s made 40 runs take 22 s."""
    runs: list[int] = []

    async def imports(n: int) -> None:
        runs.append(n)
        if len(runs) == 1:
            time.sleep(1.5)  # noqa: ASYNC251 - what this is about
        await asyncio.sleep(0.01)

    async def sleeper() -> None:
        await asyncio.sleep(25.0)

    rig = rig_with(imports, sleeper)
    rig.engine.offer(*(an_activity(f"s-{n}", "sleeper") for n in range(4)))
    await asyncio.sleep(0.1)
    ids = [f"i-{n}" for n in range(40)]
    rig.engine.offer(*(an_activity(id_, "imports", parameters={"n": 1}) for id_ in ids))
    assert await completed(rig, *ids) <= 3.0
    await end(rig)


@virtual_time
async def test_what_does_not_begin_is_named_once_and_requeued_after_its_limit() -> None:
    """N12: a wait that no progress of its own kind explains ends."""
    table = Table(slots=1)
    table.bring(an_activity("long", timeout_s=1000.0), an_activity("a-2", timeout_s=100.0))
    with capture_logs() as logs:
        await asyncio.sleep(99.0)
        lines = [line for line in logs if line["event"] == "activity_not_begun"]
        assert [(line["activity_id"], line["reason"]) for line in lines] == [("a-2", "all slots are taken")]
        assert table.engine.of("fail") == []
        await asyncio.sleep(2.0)
    [call] = table.engine.of("fail")
    assert (call.activity_id, call.body["error"]["code"]) == ("a-2", "WORKER_OVERLOADED")
    assert call.body["error"]["retryable"]
    assert "all slots are taken" in call.body["error"]["message"]
    assert len([line for line in logs if line["event"] == "activity_not_begun"]) == 1
    table.check()


@pytest.mark.parametrize("others_begin", [True, False])
@virtual_time
async def test_a_wait_for_a_permit_goes_on_while_others_of_its_name_begin(*, others_begin: bool) -> None:
    """N12: it has a reason that passes."""
    table = Table(slots=8)

    async def one_at_a_time(seconds: float) -> None:
        await asyncio.sleep(seconds)

    table.handlers.registry.register(one_at_a_time, max_concurrent=1)
    name, seconds = "one_at_a_time", 40.0 if others_begin else 240.0
    for n in range(4):
        fields = {
            "parameters": {"seconds": seconds},
            "timeout_s": 50.0 if others_begin else 60.0 + 200.0 * (n == 0),
        }
        table.bring(an_activity(f"p-{n}", name, **fields))
    await asyncio.sleep(170.0)
    codes = {call.activity_id: call.body["error"]["code"] for call in table.engine.of("fail")}
    if others_begin:
        assert codes == {}
        assert len(table.engine.of("complete")) == 4
    else:
        assert codes == {f"p-{n}": "WORKER_OVERLOADED" for n in (1, 2, 3)}
