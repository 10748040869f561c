"""A host's processes and an engine in simulated time: the real poll policy and ledger, no forks and no clock."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowherd.execution.loop_meter import LoopMeter
from flowherd.ledger import Cause, Cell, Ledger, RecordWriter
from flowherd.settings.worker_config import WorkerConfig
from flowherd.worker.admission import claimable
from flowherd.worker.poll_pace import CLOSE_S
from flowherd.worker.poll_policy import PollPolicy
from flowherd.worker.sibling_processes import Siblings

if TYPE_CHECKING:
    from collections.abc import Callable

_WORKFLOWS = itertools.count()
TRIP_S = 0.001  # from a child to the engine and back
WAKE_S = 0.00005  # from a child's wakeup to its sibling: a poll that it causes comes after it


@dataclass(frozen=True)
class Item:
    """An activity of `takes_s` seconds: on the loop if it is heavy, else waiting."""

    ready_at: float
    takes_s: float = 0.0
    heavy: bool = False
    workflow: str = field(default_factory=lambda: str(next(_WORKFLOWS)))


class SimHost:
    """`children` processes of `slots` slots each, forked at the same instant.

    Attributes:
        polls: (time, child) of every poll.
        pick_ups: seconds from ready to begun, of every activity that has begun.
        per_child: number of activities claimed by each child.

    """

    def __init__(
        self,
        children: int,
        *,
        slots: int = 16,
        interval_s: float = 0.1,
        longest_s: float = 0.1,
        seed: int = 1,
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.polls: list[tuple[float, int]] = []
        self.pick_ups: list[float] = []
        self.per_child: Counter[int] = Counter()
        self.empty_polls = 0
        self.queue: deque[Item] = deque()
        self.on_end: Callable[[Item], None] = lambda _: None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._config = WorkerConfig(poll_interval_s=interval_s, poll_interval_max_s=longest_s)
        self._slots = slots
        self.ledger = Ledger(processes=12, records=4)
        self.children: dict[int, SimChild] = {}
        for _ in range(children):
            self.fork()

    def fork(self) -> SimChild:
        """Adds a child."""
        segment = self.ledger.free_segment()
        assert segment is not None
        segment.open(index=0, incarnation=1, now=self.now)
        RecordWriter(segment)
        policy = PollPolicy(
            self._config,
            Siblings(self.ledger.segments, segment, self),  # type: ignore[arg-type]
            self.now,
            random.Random(self.rng.random()),
            lambda: 0.0,
        )
        child = self.children[segment.number] = SimChild(self, segment, policy, self._slots)
        self.at(self.now, child.look)
        return child

    def wake(self, number: int) -> None:
        """Wakes a child, which looks as soon as its loop is free."""
        self.at(self.now + WAKE_S, self.children[number].called)

    def at(self, when: float, then: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), then))

    def arrive(self, *items: Item) -> None:
        """Queues activities, each at the time it becomes ready."""
        for item in items:
            self.at(item.ready_at, lambda item=item: self.queue.append(item))

    def run(self, seconds: float) -> SimHost:
        """Advances the time."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, then = heapq.heappop(self._events)
            then()
        self.now = until
        return self

    def polls_after(self, since: float) -> list[float]:
        return [at for at, _ in self.polls if at >= since]

    def longest_gap_s(self, since: float) -> float:
        """Returns the longest time without a poll."""
        times = [since, *self.polls_after(since), self.now]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class SimChild:
    """A process, whose loop can be blocked by heavy work, frozen or draining."""

    def __init__(self, host: SimHost, segment, policy: PollPolicy, slots: int) -> None:
        self.host = host
        self.segment = segment
        self.policy = policy
        self.slots = slots
        self.held = 0
        self.meter = LoopMeter()
        self.looks = 0
        self._blocked_until = 0.0
        self._is_polling = False
        self._alarm = 0
        self.is_frozen = False
        self.is_draining = False

    @property
    def wanted(self) -> int:
        return 0 if self.is_draining else min(self.slots - self.held, claimable(self.meter.busy_mean_s))

    def freeze(self) -> None:
        self.is_frozen = True

    def drain(self) -> None:
        self.is_draining = True
        self.policy.pause()

    def die(self) -> None:
        self.is_frozen = True
        self.segment.end(Cause.SIGNAL)

    def called(self) -> None:
        self._when_free(lambda: (self.policy.called(), self.look()))

    def _when_free(self, then) -> None:
        """Schedules work on the loop for when no handler blocks it; never if it is frozen."""
        host = self.host
        if self.is_frozen:
            return
        if self._blocked_until > host.now:
            host.at(self._blocked_until, lambda: self._when_free(then))
        else:
            then()

    def look(self) -> None:
        """Does what `Poller.run` does each time it wakes."""
        self._when_free(self._look)

    def _look(self) -> None:
        host = self.host
        self._alarm += 1
        self.looks += 1
        if self._is_polling:
            return
        if self.is_draining:
            return
        if self.wanted <= 0:
            at = self.policy.full(host.now)
            if at < math.inf:
                self._look_at(at)
            return
        at = self.policy.next_at(host.now, is_roomy=2 * self.wanted >= self.slots)
        if at > host.now + CLOSE_S:
            self._look_at(at)
            return
        self._poll()

    def _look_at(self, at: float) -> None:
        self._alarm += 1
        alarm = self._alarm
        self.host.at(at, lambda: self.look() if alarm == self._alarm else None)

    def _poll(self) -> None:
        host, began_at = self.host, self.host.now
        asked = self.policy.share_of(self.wanted, began_at)
        self._is_polling = True
        self.policy.began(began_at)
        host.polls.append((began_at, self.segment.number))
        host.at(host.now + TRIP_S / 2, lambda: self._claim(asked, began_at))

    def _claim(self, asked: int, began_at: float) -> None:
        queue = self.host.queue
        batch = [queue.popleft() for _ in range(min(asked, len(queue)))]
        self.host.per_child[self.segment.number] += len(batch)
        self.host.empty_polls += not batch
        self.host.at(
            self.host.now + TRIP_S / 2,
            lambda: self._when_free(lambda: self._answered(asked, batch, began_at)),
        )

    def _answered(self, asked: int, batch: list[Item], began_at: float) -> None:
        host = self.host
        self._is_polling = False
        self.held += len(batch)
        self.segment.put(Cell.RUNNING, self.held)
        is_light = all(self.meter.is_light("heavy" if item.heavy else "light") for item in batch)
        self.policy.found(
            asked,
            len(batch),
            began_at=began_at,
            now=host.now,
            is_light=is_light,
            workflow_ids=[item.workflow for item in batch],
        )
        busy_until = host.now
        for item in batch:
            host.pick_ups.append((busy_until if item.heavy else host.now) - item.ready_at)
            if item.heavy:
                busy_until += item.takes_s
                self.segment.put(Cell.ON_LOOP, 1)
            host.at(busy_until if item.heavy else host.now + item.takes_s, lambda item=item: self._end(item))
        self.look()  # claimed activities start in the loop's next turn
        self._blocked_until = busy_until

    def _end(self, item: Item) -> None:
        self._when_free(lambda: self._ended(item))

    def _ended(self, item: Item) -> None:
        self.held -= 1
        self.segment.put(Cell.RUNNING, self.held)
        self.segment.put(Cell.ON_LOOP, 0)
        self.meter._alive += 1
        busy_s = item.takes_s if item.heavy else 0.0
        self.meter.ended("heavy" if item.heavy else "light", busy_s, busy_s)
        self.host.at(self.host.now + TRIP_S, lambda: self._when_free(lambda: self._acknowledged(item)))
        self.look()

    def _acknowledged(self, item: Item) -> None:
        at = self.policy.acknowledged(item.workflow, self.host.now)
        self.host.on_end(item)
        if at is not None:
            self._look_at(at)
