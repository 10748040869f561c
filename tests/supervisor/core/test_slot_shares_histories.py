"""Random histories of slots that change hands: whatever is scaled, reloaded or killed, the budget is never exceeded.

Workers here are greedy: they fill every slot they may use, apply orders late, and give slots back when they like.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from brain_world import SIGKILLED, Process, World

from flowherd_supervisor.core import events
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.restart_backoff import RestartPolicy

BLOCKS, PER_BLOCK, STEPS = 10, 30, 150


class GreedyWorld(World):
    """Nothing fails to boot; everything else happens often."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.forks_fail, self.forks_wait, self.freezes = 0.0, False, 0.0
        self.plan = replace(self.plan, graceful_timeout_s=30.0, restarts=RestartPolicy(max_restarts=0))
        self.state = replace(self.state, plan=self.plan)

    def step(self) -> None:
        """Performs a random step."""
        chance = self.rng.random()
        made = [process for process in self.living.values() if process.index != KEEPER]
        workers = [process for process in made if process.index != ZYGOTE]
        if chance < 0.04:
            self.feed(events.ScaleRequested(self.rng.randint(1, 7)))
        elif chance < 0.08:
            self.feed(events.ReloadRequested(self.state.plan))
        elif chance < 0.10 and workers:
            self.end(self.rng.choice(workers), SIGKILLED, running=1)
        elif made:
            self.work(self.rng.choice(made))
        self.let_time_pass(0.01)

    def work(self, process: Process) -> None:
        """Performs a random step of a worker."""
        if not process.forked:
            self.feed(self.answer_fork(process))
            return
        if process.ready_at is None:
            self.become_ready(process)
            return
        if process.index == ZYGOTE:
            if process.kills:
                self.end(process, SIGKILLED)
            return
        match self.rng.randint(0, 5):
            case 0 if process.orders:
                process.limit, process.applied = process.orders.pop(0)
            case 1 | 2 if process.polls and not process.told_to_end:
                process.held = max(process.held, process.limit)
            case 3:
                process.held -= self.rng.randint(0, process.held)
            case 4 if process.told_to_end and not process.held:
                self.end(process, 0)
                return
            case _:
                self.feed(events.SlotsSeen(*process.names, process.applied, process.held))
        self.check()


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_more_slots_are_in_use_than_the_budget_has(block: int) -> None:
    """faults.md I5, P6, P18."""
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        live_through(seed)


def live_through(seed: int) -> GreedyWorld:
    """Runs one history; names its seed if the budget is exceeded."""
    world = GreedyWorld(random.Random(seed))
    try:
        world.feed(events.Started())
        for _ in range(STEPS):
            world.step()
    except AssertionError as error:
        raise AssertionError("\n".join([f"seed {seed}: {error}", *world.log[-40:]])) from error
    return world


def test_when_all_have_answered_the_split_is_even_again() -> None:
    """No slot is lost for good."""
    for seed in range(40):
        world = live_through(seed)
        for _ in range(200):
            for process in [process for process in world.living.values() if process.index != KEEPER]:
                process.held = 0
                if world.living.get(process.names) is not process:
                    continue  # ordered from a zygote that has just ended
                if not process.forked:
                    world.feed(world.answer_fork(process))
                    continue
                if process.told_to_end or process.kills:
                    world.end(process, SIGKILLED if process.kills else 0)
                    continue
                if process.ready_at is None:
                    world.become_ready(process)
                while process.orders:
                    process.limit, process.applied = process.orders.pop(0)
                if process.index != ZYGOTE:
                    world.feed(events.SlotsSeen(*process.names, process.applied, 0))
            world.let_time_pass(0.5)
        limits = [process.limit for process in world.state.processes]
        assert limits == list(world.state.plan.shares), f"seed {seed}"
