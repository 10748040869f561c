"""The demo's chaos: SIGKILL to a worker process now and then, and never to what is not one."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd_supervisor.demo.client import Status

SEED = 20261124
EVERY_S = (1.5, 2.5)


class Chaos:
    """Decides when to kill whom; `kills` maps the pid of each killed process to the time of its kill.

    Seeded, so that two runs kill at the same distances. `kill` is not `kill_child` only in tests.
    """

    def __init__(self, seed: int = SEED, kill: Callable[[int, int], bool] | None = None) -> None:
        self.kills: dict[int, float] = {}
        self._random = random.Random(seed)
        self._kill = kill_child if kill is None else kill
        self._next_s: float | None = None

    def act(self, status: Status, now: float) -> None:
        """Kill one running child if it is time; the first time comes one pause after the first call."""
        if self._next_s is not None and now < self._next_s:
            return
        running = sorted(child.pid for child in status.children if child.phase == "running")
        if self._next_s is not None and running:
            victim = self._random.choice(running)
            if self._kill(victim, status.pid):
                self.kills[victim] = time.monotonic()
        self._next_s = now + self._random.uniform(*EVERY_S)


def kill_child(pid: int, supervisor: int) -> bool:
    """SIGKILL a process if it is a child of that supervisor, and return whether it was one.

    psutil compares the start time before it kills, so a pid that was given away meanwhile is left alone.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(pid)
        if child.ppid() == supervisor:
            child.kill()
            return True
    return False
