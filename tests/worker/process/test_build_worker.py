"""A worker's connections to its host: wakeups, with a real ledger, real eventfds and a scripted engine."""

from __future__ import annotations

import asyncio
import select
import time
from functools import cached_property
from typing import TYPE_CHECKING

import pytest
from engine_rig import brings, item
from worker_kit import open_segment

from flowherd import Registry
from flowherd.ledger import Host, Ledger, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.process.build_worker import BuiltWorker, WorkerPlace
from flowherd.settings.worker_config import WorkerConfig

if TYPE_CHECKING:
    from scripted_engine import ScriptedEngine

registry = Registry()


@registry.activity
async def echo(n: int) -> dict[str, int]:
    return {"n": n}


@registry.activity
async def quote(pin_code: str) -> None:
    raise ValueError(f"refused {pin_code}")


@pytest.mark.parametrize(
    ("lease_s", "rests_for_s", "is_woken"),
    [(1, 1000.0, True), (60, 1000.0, False), (1, 0.0, False)],
    ids=["short lease, resting", "long lease, resting", "short lease, awake"],
)
async def test_a_claim_with_a_short_lease_wakes_a_keeper_that_rests(
    server: ScriptedEngine, lease_s: int, rests_for_s: float, *, is_woken: bool
) -> None:
    """A lease of a second would be over before the rest is; a wakeup for each claim would cost each claim."""
    server.script("poll", brings(item(timeout_seconds=lease_s)))
    config = WorkerConfig(api_url=server.url, concurrency=4)
    ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
    ledger.tick(time.monotonic() + rests_for_s)
    wakeups, segment = Wakeups(len(ledger.segments)), open_segment(ledger)
    built = BuiltWorker(
        config, registry, ledger=ledger, segment=segment, wakeups=wakeups, place=WorkerPlace(0), most_slots=4
    )
    work = asyncio.create_task(built.worker.run())
    try:
        async with asyncio.timeout(10.0):
            await server.asked("complete")
        woken, _, _ = select.select([wakeups.keeper], [], [], 0)
        assert bool(woken) == is_woken
    finally:
        built.worker.release(0.2)
        await work
        await built.aclose()
        wakeups.close()


async def test_names_of_secrets_in_the_settings_reach_what_is_told_to_the_engine(
    server: ScriptedEngine,
) -> None:
    """N19."""
    server.script("poll", brings(item(name="quote", parameters={"pin_code": "canary-7"})))
    config = WorkerConfig(api_url=server.url, concurrency=4, secret_names=("PIN",))
    ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
    ledger.tick(time.monotonic())
    wakeups, segment = Wakeups(len(ledger.segments)), open_segment(ledger)
    built = BuiltWorker(
        config, registry, ledger=ledger, segment=segment, wakeups=wakeups, place=WorkerPlace(0), most_slots=4
    )
    work = asyncio.create_task(built.worker.run())
    try:
        await server.asked("fail")
        told = str(server.of("fail")[0])
        assert "refused ***" in told
        assert "canary" not in told
    finally:
        built.worker.release(0.2)
        await work
        await built.aclose()
        wakeups.close()


class Watched(Ledger):
    """Reports when `polls have to wait` has been checked three times."""

    looks = 0

    def keeper_late_s(self, now: float) -> float:
        self.looks += 1
        if self.looks == 3:
            self.has_looked.set()
        return super().keeper_late_s(now)

    @cached_property
    def has_looked(self) -> asyncio.Event:
        return asyncio.Event()


async def test_a_worker_asks_for_nothing_while_its_host_has_leases_in_doubt(server: ScriptedEngine) -> None:
    """N6: under a supervisor and as `python -m flowherd` alike."""
    config = WorkerConfig(api_url=server.url, concurrency=4)
    ledger = Watched(processes=1, records=records_needed(config.concurrency, config.poll_max))
    ledger.tick(time.monotonic() + 1000.0)
    ledger.put(Host.UNCONFIRMED, 1)
    wakeups, segment = Wakeups(len(ledger.segments)), open_segment(ledger)
    built = BuiltWorker(
        config, registry, ledger=ledger, segment=segment, wakeups=wakeups, place=WorkerPlace(0), most_slots=4
    )
    work = asyncio.create_task(built.worker.run())
    try:
        async with asyncio.timeout(10.0):
            await ledger.has_looked.wait()
            assert not server.of("poll")
            ledger.put(Host.UNCONFIRMED, 0)
            await server.asked("poll")
    finally:
        built.worker.release(0.2)
        await work
        await built.aclose()
        wakeups.close()
