"""Random histories of a pool of isolates: in any order of events, each activity ends exactly once."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from isolate_pool_kit import Peer, Pool, pool
from runner_kit import CancelReason
from virtual_time import virtual_time

from flowherd.activities_and_outcomes import Completed, Died, Failed, Lost
from flowherd.isolates.isolate_protocol import (
    Begin,
    Ended,
    LeftBehind,
    Stop,
    TokenRefused,
)
from flowherd.link.messages import BootFailed, Ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner_kit import Run

    from flowherd.worker.attempt import Attempt

FIXED_SEED = 20261124
HISTORIES, STEPS = 60, 60
MOST_RUNS = 8


class Actor:
    """An isolate as a process would be, with the messages it has received."""

    def __init__(self, key: int, peer: Peer) -> None:
        self.key = key
        self.peer = peer
        self.is_open = False
        self.is_hung_up = False
        self.runs: str | None = None
        self.must_end = False
        self.tasks = 0

    def listen(self) -> None:
        """Takes what has come; an activity only where one may come."""
        try:
            self.peer.take_in()
        except Exception:  # noqa: BLE001 - the worker has closed its end
            self.must_end = True
        while self.peer.heard:
            match self.peer.heard.pop(0)[0]:
                case Begin(activity=activity, mark=mark):
                    assert self.is_open, f"{self.key} was given an activity before it was ready"
                    assert self.runs is None, f"{self.key} was given two activities"
                    assert not self.must_end, f"{self.key} was given an activity although it shall end"
                    self.runs, self.peer.mark = activity.activity_id, mark
                    self.tasks += 1
                case Stop() | None:
                    self.must_end = True


class History:
    """One pool and what happens to it."""

    def __init__(self, it: Pool, rng: random.Random) -> None:
        self.it = it
        self.rng = rng
        self.limit = 3
        self.actors: dict[int, Actor] = {}
        self.gone: set[int] = set()
        self.runs: list[Run] = []
        self.ends: dict[str, int] = {}
        executors = it.runner.worker.executors
        ended = executors.ended
        executors.ended = lambda attempt: (self._count(attempt), ended(attempt))

    def _count(self, attempt: Attempt) -> None:
        self.ends[attempt.id] = self.ends.get(attempt.id, 0) + 1

    async def rest(self) -> None:
        """Runs the loop until only time can change anything, then asserts the invariants."""
        for _ in range(4):
            await asyncio.sleep(0)
        for key, peer in self.it.host.peers.items():
            self.actors.setdefault(key, Actor(key, peer))
        for actor in self._living():
            actor.listen()
        isolates = self.it.isolates
        assert all(count == 1 for count in self.ends.values()), self.ends
        assert set(isolates._all) <= set(self.actors) - self.gone | self._unmade()

    def _unmade(self) -> set[int]:
        return set(self.it.isolates._all) - set(self.it.host.peers)

    def _living(self) -> list[Actor]:
        return [actor for key, actor in self.actors.items() if key not in self.gone]

    def steps(self) -> list[Callable[[], None]]:
        """Returns the possible steps."""
        possible: list[Callable[[], None]] = [self.advance, self.resize]
        if sum(not run.has_ended for run in self.runs) < MOST_RUNS:
            possible += [self.start] * 3
        if alive := [run for run in self.runs if not run.has_ended]:
            possible.append(lambda: self.rng.choice(alive).cancel(self.rng.choice(list(CancelReason))))
        for actor in self._living():
            possible.append(lambda actor=actor: self.die(actor))
            if actor.is_hung_up:
                continue
            if not actor.is_open:
                possible += [lambda actor=actor: self.open(actor)] * 3
            elif actor.runs is not None:
                possible += [lambda actor=actor: self.succeed(actor)] * 4
                possible += [lambda actor=actor: self.fail(actor), lambda actor=actor: self.babble(actor)]
            if self.rng.random() < 0.1:
                possible.append(lambda actor=actor: self.hang_up(actor))
        return possible

    def advance(self) -> None:
        asyncio.get_running_loop().now += self.rng.choice([0.01, 0.5, 6.0, 70.0])

    def resize(self) -> None:
        self.limit = self.rng.randint(0, 4)
        self.it.isolates.resize(self.limit)

    def start(self) -> None:
        self.it.host.is_gone = self.rng.random() < 0.05
        self.runs.append(self.it.start({}, timeout_s=self.rng.choice([1.0, 100.0])))
        self.it.host.is_gone = False

    def open(self, actor: Actor) -> None:
        self.it.isolates.started(actor.key, 0)
        if self.rng.random() < 0.1:
            self.send(actor, BootFailed(3, "no"))
            return
        actor.is_open = True
        self.send(actor, Ready())

    def succeed(self, actor: Actor) -> None:
        actor.runs = None
        os.write(actor.peer.stdout, b"a line\n")
        self.send(actor, Ended(None), b"{}")
        self.end_output(actor)

    def fail(self, actor: Actor) -> None:
        actor.runs = None
        self.send(actor, Ended(Failed("C", "m", retryable=True)))
        self.end_output(actor)

    def end_output(self, actor: Actor) -> None:
        """Mostly its output ends, sometimes it says that it does not, and sometimes it prints on."""
        chance = self.rng.random()
        if chance < 0.8:
            actor.peer.end_output()
        elif chance < 0.9:
            self.send(actor, LeftBehind("a thread"))

    def babble(self, actor: Actor) -> None:
        self.send(
            actor,
            self.rng.choice([TokenRefused(1), TokenRefused(2), Ended(None, cost_usd="-1"), Ready()]),
        )

    def send(self, actor: Actor, *what: Any) -> None:
        try:
            actor.peer.send(*what)
        except OSError:  # the worker has closed its end
            actor.is_hung_up = True

    def hang_up(self, actor: Actor) -> None:
        actor.is_hung_up = True
        actor.peer.channel.close()

    def die(self, actor: Actor) -> None:
        """Ends the isolate, on order or by itself, or fails its start."""
        self.gone.add(actor.key)
        reason = "no process" if not actor.is_open and self.rng.random() < 0.3 else ""
        self.it.end(actor.key, self.rng.choice([0, 9, 11, 3 << 8]), reason)

    async def finish(self) -> None:
        """Ends all faults; everything owed must then end."""
        self.it.isolates.resize(3)
        for _ in range(400):
            await self.rest()
            if all(run.has_ended for run in self.runs):
                return
            for actor in self._living():
                if actor.must_end or actor.is_hung_up or ("kill", actor.key) in self.it.host.orders:
                    self.die(actor)
                elif not actor.is_open:
                    actor.is_open = True
                    self.send(actor, Ready())
                elif actor.runs is not None:
                    self.succeed(actor)
            asyncio.get_running_loop().now += 1.0
        raise AssertionError(f"{[run for run in self.runs if not run.has_ended]} {self.it.isolates}")


async def play(seed: int, steps: int = STEPS) -> list[Run]:
    rng = random.Random(seed)
    async with pool(limit=3, max_tasks=3, idle_s=50.0, cancel_grace_s=5.0, boot_timeout_s=30.0) as it:
        history = History(it, rng)
        for _ in range(steps):
            rng.choice(history.steps())()
            await history.rest()
        await history.finish()
        assert len(history.ends) == len(history.runs)
        assert all(actor.tasks <= 3 for actor in history.actors.values())
        return history.runs


def seeds(count: int) -> list[int]:
    first = FIXED_SEED if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)
    return list(range(first, first + count))


@virtual_time
async def _all_end(chosen: list[int]) -> None:
    kinds: set[type] = set()
    for seed in chosen:
        try:
            for run in await play(seed):
                kinds.add(type(run.known_outcome))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert kinds == {Completed, Died, Failed, Lost}, "histories in which little happens prove little"


def test_each_activity_ends_once_whatever_its_isolates_do():
    _all_end(seeds(HISTORIES))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_each_activity_ends_once_in_many_histories():
    _all_end(seeds(3000))
