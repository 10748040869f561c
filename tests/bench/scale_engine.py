"""An engine in simulated time, as hosts see it: lanes, a queue, costs of requests."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH_S = 1000.0  # the hosts have long been idle when it begins


@dataclass(frozen=True)
class Shape:
    """One simulation; times in seconds."""

    hosts: int = 10
    children: int = 8
    scheme: str = "host"
    rate: float = 100.0  # activities a second, all hosts together
    seconds: float = 20.0  # that count
    warm_up_s: float = 10.0
    slots: int = 4
    work_s: float = 0.1
    interval_s: float = 0.1
    longest_s: float = 2.0
    lanes: int = 8
    poll_s: float = 0.001
    claim_s: float = 0.0005
    report_s: float = 0.002
    trip_s: float = 0.001
    seed: int = 20_261_124


class World:
    """Simulated time, with the events due next."""

    def __init__(self) -> None:
        self.now = EPOCH_S
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, when: float, then: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), then, given))

    def run_until(self, end: float) -> None:
        events = self._events
        while events and events[0][0] <= end:
            self.now, _, then, given = heapq.heappop(events)
            then(*given)
        self.now = end


class Engine:
    """Serves requests in order on some lanes; ready activities, oldest first."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.world, self.shape = world, shape
        self.ready: deque[float] = deque()
        self.requests = 0
        self.busy_s = 0.0
        self._free = shape.lanes
        self.waits: list[float] = []  # of requests, until a lane took them
        self._queue: deque[tuple[float, int, Callable[[list[float]], None]]] = deque()

    def ask(self, asked: int, then: Callable[[list[float]], None]) -> None:
        """Handles a poll for `asked` activities, or with 0 a report; calls `then` with the claims."""
        self.requests += 1
        self._queue.append((self.world.now, asked, then))
        self._serve()

    def _serve(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            came_at, asked, then = self._queue.popleft()
            self.waits.append(self.world.now - came_at)
            batch = [self.ready.popleft() for _ in range(min(asked, len(self.ready)))]
            shape = self.shape
            cost_s = shape.poll_s + len(batch) * shape.claim_s if asked else shape.report_s
            self.busy_s += cost_s
            self.world.at(self.world.now + cost_s, self._served, batch, then)

    def _served(self, batch: list[float], then: Callable[[list[float]], None]) -> None:
        self._free += 1
        self.world.at(self.world.now + self.shape.trip_s / 2, then, batch)
        self._serve()
