"""The handler that is on the loop now, and how long handlers keep it; it runs nothing of its own accord.

Each handler that runs on the loop is stepped through a wrapper. For the length of a step the ledger's ON_LOOP cell
holds the handler's record, so that the supervisor knows whom to blame when the loop never comes back.
"""

from __future__ import annotations

import threading
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from flowherd.execution.activity_costs import LONG_STEP_S, ActivityProfile, LoopSample, Stay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BLOCKER_S = 0.1  # a step this long is felt by everything else on the loop
LIGHT_S = 0.005  # of CPU: an activity that takes no more leaves its process free for others
_SLOWLY = 0.1  # weight of the newest activity in the mean, if it took less
_QUICKLY = 0.5  # ... and if it took more: a child that has met heavy work must not claim more of it


class LongStep(NamedTuple):
    """A step that has ended, in `perf_counter` seconds."""

    name: str
    began: float
    ended: float


class LoopMeter:
    """ActivityProfiles the steps of one worker's handlers, and knows which are elsewhere.

    Args:
        mark: stores the record that is on the loop; 0 for none.
        measures: gets what each activity costs, by its name.

    Attributes:
        since: `perf_counter` seconds when the present step began, 0 between steps; read by the watchdog's thread.
        name: the activity of the present step.
        busy_s: total seconds that handlers used the loop.
        last_long: the latest step that took `LONG_STEP_S` or more; read by the watchdog's thread.
        in_threads: the activities whose handlers are in threads now; read by the watchdog's thread.
        busy_mean_s: seconds of this process that a recent activity took, on its loop or in threads, on average.
        on_long_step: called with the seconds of each step that was so long that its neighbours felt it.
        stepping: set while there is a handler that has not ended.
        on_busy: called when the first handler begins after a time without any.
        is_in_turn: while handlers that do not wait run one after the other; only its first may not be known as light.
        on_turn_end: called when they have run.

    """

    def __init__(
        self,
        mark: Callable[[int], None] = lambda _: None,
        measures: Mapping[str, ActivityProfile] | None = None,
    ) -> None:
        self._mark = mark
        self._measures: Mapping[str, ActivityProfile] = {} if measures is None else measures
        self._kinds: dict[str, _Kind] = {}
        self.since = 0.0
        self.name = ""
        self.busy_s = 0.0
        self.last_long = LongStep("", 0.0, 0.0)
        self.in_threads: Counter[str] = Counter()
        self.busy_mean_s = 0.0
        self.stepping = threading.Event()
        self.on_busy: Callable[[], None] | None = None
        self.on_long_step: Callable[[float], None] | None = None
        self._alive = 0
        self.is_in_turn = False
        self.on_turn_end: Callable[[], None] | None = None

    def blocks(self, name: str) -> bool:
        """True if an activity of this name lately blocked the loop long enough to delay others."""
        kind = self._kinds.get(name)
        return kind is not None and kind.longest_s >= BLOCKER_S

    def is_light(self, name: str) -> bool:
        """True when activities of this name are known to leave this process free; not before one has ended."""
        kind = self._kinds.get(name)
        return kind is not None and kind.has_ended and kind.heaviest_s <= LIGHT_S

    def sample_of(self, name: str) -> LoopSample | None:
        """An attempt begins; what measures its CPU and waits too, for some of the attempts of a name."""
        self._begins()
        kind = self._kinds.get(name) or self._new_kind(name)
        measure = kind.measure
        if measure is None or not measure.begins():
            return None
        return LoopSample(measure, alone=self.has_one)

    def _new_kind(self, name: str) -> _Kind:
        kind = self._kinds[name] = _Kind(self._measures.get(name))
        return kind

    def begin_turn(self) -> None:
        """Handlers are about to run one after the other: between them nothing has ended."""
        self.is_in_turn = True

    def end_turn(self) -> None:
        """It may be the end of all handlers."""
        self.is_in_turn = False
        if not self._alive:
            self.stepping.clear()
        if self.on_turn_end is not None:
            self.on_turn_end()

    def enter_thread(self, name: str) -> Stay:
        """A handler begins to run in a thread; `leave_thread` must follow when it has ended."""
        self._begins()
        self.in_threads[name] += 1
        return Stay(self._measures.get(name), alone=self.has_one)

    def leave_thread(self, name: str, stay: Stay) -> None:
        """A handler in a thread has ended."""
        stay.end(alone=self.has_one)
        self._note_busy(self._kinds.get(name) or self._new_kind(name), stay.cpu_s)
        self.in_threads[name] -= 1
        if not self.in_threads[name]:
            del self.in_threads[name]
        self._ends()

    def enter_isolate(self) -> None:
        """A handler is to run in an isolate; `leave_isolate` must follow when it has ended."""
        self._begins()

    def leave_isolate(self) -> None:
        """A handler in an isolate has ended."""
        self._ends()

    def offloaded(self, name: str, *, cpu_s: float, wall_s: float, growth_bytes: int) -> None:
        """Takes an isolate's measurements of an attempt; ValueError for what cannot be."""
        if cpu_s < 0 or wall_s < 0:
            raise ValueError("no time is negative")
        if (measure := self._measures.get(name)) is not None:
            measure.offloaded(cpu_s=cpu_s, wall_s=wall_s, growth_bytes=growth_bytes)

    @property
    def has_one(self) -> bool:
        """True when there is a single handler, wherever it runs."""
        return self._alive == 1

    def enter(self, name: str, tag: int) -> float:
        """A step begins."""
        self._mark(tag)
        self.name = name
        self.since = now = perf_counter()
        return now

    def leave(self, began: float) -> float:
        """The step has ended; returns its length in seconds."""
        now = perf_counter()
        length_s = now - began
        self.busy_s += length_s
        if length_s >= LONG_STEP_S:
            self._note_long_step(began, now)
        self.since = 0.0
        self._mark(0)
        if length_s >= BLOCKER_S and self.on_long_step is not None:
            self.on_long_step(length_s)
        return length_s

    def _note_long_step(self, began: float, now: float) -> None:
        self.last_long = LongStep(self.name, began, now)
        if (measure := self._measures.get(self.name)) is not None:
            measure.long_step(now - began)

    def ended(self, name: str, busy_s: float, longest_s: float) -> None:
        """A handler has ended: what it took is remembered, and forgotten slowly."""
        kind = self._kinds.get(name) or self._new_kind(name)
        if kind.measure is not None:
            kind.measure.kept_loop(busy_s, longest_s)
        self._note_busy(kind, busy_s)
        faded_s = kind.longest_s * (1 - _SLOWLY)
        kind.longest_s = max(faded_s, longest_s)
        self._ends()

    def _note_busy(self, kind: _Kind, busy_s: float) -> None:
        """Notes how much can start soon: threads share this interpreter, or else a core with its siblings."""
        more_s = busy_s - self.busy_mean_s
        self.busy_mean_s += more_s * (_QUICKLY if more_s > 0 else _SLOWLY)
        faded_s = kind.heaviest_s * (1 - _SLOWLY)
        kind.heaviest_s = max(faded_s, busy_s)
        kind.has_ended = True

    def _begins(self) -> None:
        self._alive += 1
        if self._alive == 1 and not self.stepping.is_set():
            self.stepping.set()
            if self.on_busy is not None:
                self.on_busy()

    def _ends(self) -> None:
        self._alive -= 1
        if not self._alive and not self.is_in_turn:
            self.stepping.clear()


class _Kind:
    """The memory of the activities of one name."""

    __slots__ = ("has_ended", "heaviest_s", "longest_s", "measure")

    def __init__(self, measure: ActivityProfile | None) -> None:
        self.measure = measure
        self.has_ended = False
        self.heaviest_s = self.longest_s = 0.0
