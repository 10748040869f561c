"""Random histories of a whole worker: slots that come and go, pauses, an engine that fails in every way it can.

At any time no more handlers run than the worker reports as held, and slots held beyond its limit only decrease; in the
end everything is reported to the engine, and nothing is held.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from attempts_kit import Rig, an_activity
from structlog.testing import capture_logs
from virtual_time import virtual_time

from flowherd.errors import (
    CallTooSlow,
    EngineDisconnected,
    EngineError,
    EngineMisconfigured,
    EngineUnauthorized,
    EngineUnavailable,
    ForeignReply,
)
from flowherd.ledger import Cell
from flowherd.testing import FakeEngine

STEPS, SEEDS = 150, 24


def an_error(rng: random.Random) -> EngineError:
    """One of each kind."""
    return rng.choice(
        [
            EngineUnavailable("connection refused"),
            EngineUnavailable("status 500", in_doubt=True),
            EngineUnavailable("status 429", retry_after_s=5.0),
            EngineDisconnected("closed", in_doubt=True),
            EngineMisconfigured("status 403"),
            EngineUnauthorized("status 401"),
            ForeignReply("status 404"),
            CallTooSlow("60 s", in_doubt=True),
        ]
    )


class MoodyEngine(FakeEngine):
    """Takes its time, and fails before or after it has done what it was asked for."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.failing, self.slow_s = 0.0, 0.01
        self.polling, self.is_paused = 0, False

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Any:
        assert not self.is_paused
        assert not self.polling
        self.polling += 1
        try:
            surplus = self.rng.choice([0, 0, 0, 3])
            return await super().poll(worker_type, worker_id, limit + surplus, deadline_s)
        finally:
            self.polling -= 1

    async def _step(self, verb: str) -> Any:
        await asyncio.sleep(self.rng.random() * self.slow_s)
        if self.rng.random() < self.failing:
            raise an_error(self.rng)
        return await super()._step(verb)

    def told(self) -> set[str]:
        return {call.activity_id for call in self.calls if call.verb in {"complete", "fail"}}


class History:
    """One worker and what happens to it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rig = Rig(slots=self.rng.choice([1, 2, 4, 8]))
        self.engine = MoodyEngine(self.rng)
        for verb in ("poll", "complete", "fail"):
            setattr(self.rig.engine, verb, getattr(self.engine, verb))
        self.limit = self.most = 8
        self.offered = self.orders = 0

    def happens(self) -> None:
        """Something."""
        worker, rng = self.rig.worker, self.rng
        match rng.randint(0, 9):
            case 0 | 1 | 2:
                for _ in range(rng.randint(1, 12)):
                    self.offered += 1
                    self.engine.offer(an_activity(f"a-{self.offered}", rng.choice(["work", "fail"])))
            case 3 | 4 | 5:
                self.end(share=0.5)
            case 6:
                self.engine.is_paused = not self.engine.is_paused
                (worker.quiet if self.engine.is_paused else worker.resume)()
            case 7:
                self.engine.failing = rng.choice([0.0, 0.0, 0.1, 0.5, 1.0])
            case 8:
                self.engine.slow_s = rng.choice([0.0, 0.001, 0.5, 3.0])
            case _:
                self.resize(rng.randint(0, 8))

    def end(self, share: float) -> None:
        ids = (f"a-{number}" for number in range(1, self.offered + 1))
        self.rig.handlers.end(*(id_ for id_ in ids if self.rng.random() < share))

    def resize(self, limit: int) -> None:
        self.limit, self.orders = limit, self.orders + 1
        self.rig.worker.set_slots(limit, self.orders)
        assert self.rig.segment.get(Cell.LIMIT_APPLIED) == self.orders
        self.most = max(limit, self.rig.segment.get(Cell.HELD))

    async def passes(self) -> None:
        """Time, or just a round of the loop."""
        for _ in range(self.rng.randint(0, 5)):
            await asyncio.sleep(self.rng.choice([0, 0, 0.001, 0.1, 2.0]))
            running, held = sum(self.rig.handlers.running.values()), self.rig.segment.get(Cell.HELD)
            assert running <= held <= self.most
            self.most = max(self.limit, held)

    async def ends(self) -> None:
        """All is well again."""
        self.engine.failing, self.engine.slow_s, self.engine.is_paused = 0.0, 0.01, False
        self.rig.worker.resume()
        self.resize(3)
        for _ in range(60):
            self.end(share=1.0)
            await asyncio.sleep(5.0)
        assert self.engine.told() == {f"a-{number}" for number in range(1, self.offered + 1)}
        self.rig.worker.drain(5.0)
        await self.rig.task
        said = self.rig.segment.get
        assert said(Cell.HELD) == 0
        assert not list(self.rig.segment.records())
        over = said(Cell.COMPLETED) + said(Cell.FAILED) + said(Cell.LOST)
        assert over == said(Cell.CLAIMED) == self.offered


@pytest.mark.parametrize("seed", range(SEEDS))
@virtual_time
async def test_a_worker_loses_nothing_and_never_runs_more_than_it_holds(seed: int) -> None:
    """Faults E1, E5, P7, P18."""
    history = History(seed)
    with capture_logs() as logs:
        for _ in range(STEPS):
            history.happens()
            await history.passes()
        await history.ends()
    assert "internal_error" not in [entry["event"] for entry in logs]
