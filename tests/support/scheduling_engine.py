"""An engine that schedules what follows an outcome at intervals, in simulated time; polls come from a `SimHost`."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from polling_kit import Item

if TYPE_CHECKING:
    from polling_kit import SimHost

LEAST_S, MOST_S, RISE = 0.05, 1.0, 1.5  # between two looks for outcomes: after some, at most, and after none
TAKES_S = 0.004  # to schedule what follows one of them
CLIENT_S = 0.05  # within which a client sees that a workflow has ended, and submits the next


class SchedulingEngine:
    """Runs workflows of `steps`: so many activities beside each other, then so many, one list for all.

    Attributes:
        done: workflows that have ended.
        activities: those whose outcome has come.

    """

    def __init__(self, host: SimHost, steps: tuple[int, ...], *, at_once: int) -> None:
        self.host = host
        self.steps = steps
        self.done = self.activities = 0
        self._submitted = 0
        self._news: deque[str] = deque()
        self._step: dict[str, int] = {}
        self._owed: Counter[str] = Counter()
        self._pause_s = MOST_S
        host.on_end = self._ended
        host.at(host.now, self._look)
        for _ in range(at_once):
            self._submit()

    def _submit(self) -> None:
        self._submitted += 1
        self._news.append(f"wf-{self._submitted}")

    def _ended(self, item: Item) -> None:
        self.activities += 1
        self._news.append(item.workflow)

    def _look(self) -> None:
        at = self.host.now
        self._pause_s = LEAST_S if self._news else min(self._pause_s * RISE, MOST_S)
        while self._news:
            workflow = self._news.popleft()
            at += TAKES_S * self.host.rng.uniform(0.5, 1.5)
            self.host.at(at, lambda workflow=workflow: self._go_on(workflow))
        self.host.at(at + self._pause_s, self._look)

    def _go_on(self, workflow: str) -> None:
        self._owed[workflow] -= 1
        if self._owed[workflow] > 0:
            return
        step = self._step[workflow] = self._step.get(workflow, -1) + 1
        if step == len(self.steps):
            self.done += 1
            self.host.at(self.host.now + self.host.rng.uniform(0, CLIENT_S), self._submit)
            return
        self._owed[workflow] = self.steps[step]
        now = self.host.now
        self.host.arrive(*(Item(now, TAKES_S, workflow=workflow) for _ in range(self.steps[step])))


def asked(engine: SchedulingEngine, activities: int) -> tuple[float, float, float]:
    """Lets so many activities be done; polls an activity, the share of empty ones, and activities a second."""
    host, until = engine.host, engine.activities + activities
    begun_at, polls, empty = host.now, len(host.polls), host.empty_polls
    while engine.activities < until:
        host.run(0.01)
    polls = len(host.polls) - polls
    return polls / activities, (host.empty_polls - empty) / polls, activities / (host.now - begun_at)
