"""Which handler is on the loop now, and how long handlers keep it; it runs nothing of its own accord.

Each handler that runs on the loop is stepped through a wrapper. For the length of a step the ledger's ON_LOOP cell
holds the handler's record, so that the supervisor knows whom to blame when the loop never comes back.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flowherd.measuring.measures import LONG_STEP_S, LoopSample, Measure, Stay

if TYPE_CHECKING:
    from types import FrameType

BLOCKER_S = 0.1  # a step this long is felt by everything else on the loop
LIGHT_S = 0.005  # of CPU: an activity that takes no more leaves its process free for others
_SLOWLY = 0.1  # weight of the newest activity in the mean, if it took less
_QUICKLY = 0.5  # ... and if it took more: a child that has met heavy work must not claim more of it


class Tagged(Protocol):
    """Whose steps are measured.

    Attributes:
        tag: what is stored while one lasts; 0 is nobody.

    """

    tag: int


class LongStep(NamedTuple):
    """A step that has ended, in `perf_counter` seconds."""

    name: str
    began: float
    ended: float


class LoopMeter:
    """Measures the steps of one worker's handlers, and knows which are elsewhere.

    Args:
        mark: stores who is on the loop; 0 is nobody.
        measures: gets what each activity costs, by its name.

    Attributes:
        since: `perf_counter` seconds when the present step began, 0 between steps; read by the watchdog's thread.
        name: the activity of the present step.
        busy_s: seconds that handlers have ever kept the loop.
        last_long: the latest step that took `LONG_STEP_S` or more; read by the watchdog's thread.
        in_threads: the activities whose handlers are in threads now; read by the watchdog's thread.
        busy_mean_s: seconds of this process that a recent activity took, on its loop or in threads, on average.
        on_long_step: called with the seconds of each step that was so long that its neighbours felt it.
        stepping: set while there is a handler that has not ended.
        on_busy: called when the first handler begins after a time without any.

    """

    def __init__(
        self, mark: Callable[[int], None] = lambda _: None, measures: Mapping[str, Measure] | None = None
    ) -> None:
        self._mark = mark
        self._measures: Mapping[str, Measure] = {} if measures is None else measures
        self._longest: dict[str, float] = {}
        self._heaviest: dict[str, float] = {}
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
        self._is_in_turn = False

    def blocks(self, name: str) -> bool:
        """Whether an activity of this name has lately kept the loop for so long that its neighbours felt it."""
        return self._longest.get(name, 0.0) >= BLOCKER_S

    def is_light(self, name: str) -> bool:
        """Whether activities of this name are known to leave this process free; not before one has ended."""
        return self._heaviest.get(name, BLOCKER_S) <= LIGHT_S

    def stepped(self, work: Coroutine[Any, Any, Any], name: str, whose: Tagged) -> Stepped:
        """The same work, measured; `whose` says what `mark` shall store while it is on the loop."""
        self._begins()
        measure = self._measures.get(name)
        if measure is None or not measure.begins():
            return Stepped(work, self, name, whose)
        return Sampled(work, self, name, whose, LoopSample(measure, alone=self.has_one))

    def begin_turn(self) -> None:
        """Handlers are about to run one after the other: between them nothing has ended."""
        self._is_in_turn = True

    def end_turn(self) -> None:
        """It may be the end of all handlers."""
        self._is_in_turn = False
        if not self._alive:
            self.stepping.clear()

    def enter_thread(self, name: str) -> Stay:
        """A handler begins to run in a thread; `leave_thread` must follow when it has ended."""
        self._begins()
        self.in_threads[name] += 1
        return Stay(self._measures.get(name), alone=self.has_one)

    def leave_thread(self, name: str, stay: Stay) -> None:
        """A handler in a thread has ended."""
        stay.end(alone=self.has_one)
        self._note_busy(name, stay.cpu_s)
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
        """What an isolate says of an attempt; ValueError for what cannot be."""
        if cpu_s < 0 or wall_s < 0:
            raise ValueError("no time is negative")
        if (measure := self._measures.get(name)) is not None:
            measure.offloaded(cpu_s=cpu_s, wall_s=wall_s, growth_bytes=growth_bytes)

    @property
    def has_one(self) -> bool:
        """Whether there is a single handler, wherever it runs."""
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
        if (measure := self._measures.get(name)) is not None:
            measure.kept_loop(busy_s, longest_s)
        self._note_busy(name, busy_s)
        self._longest[name] = max(longest_s, self._longest.get(name, 0.0) * (1 - _SLOWLY))
        self._ends()

    def _note_busy(self, name: str, busy_s: float) -> None:
        """How much this process can start soon: threads share its interpreter, or else a core with its siblings."""
        more_s = busy_s - self.busy_mean_s
        self.busy_mean_s += more_s * (_QUICKLY if more_s > 0 else _SLOWLY)
        self._heaviest[name] = max(busy_s, self._heaviest.get(name, 0.0) * (1 - _SLOWLY))

    def _begins(self) -> None:
        self._alive += 1
        if self._alive == 1 and not self.stepping.is_set():
            self.stepping.set()
            if self.on_busy is not None:
                self.on_busy()

    def _ends(self) -> None:
        self._alive -= 1
        if not self._alive and not self._is_in_turn:
            self.stepping.clear()


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that times each of its steps, and ends as the one within."""

    __slots__ = ("_busy_s", "_longest_s", "_meter", "_name", "_whose", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], meter: LoopMeter, name: str, whose: Tagged) -> None:
        self._work = work
        self._meter = meter
        self._name = name
        self._whose = whose
        self._busy_s = 0.0
        self._longest_s = 0.0

    def send(self, value: Any) -> Any:
        """One step."""
        meter = self._meter
        began = meter.enter(self._name, self._whose.tag)
        try:
            waits_for = self._work.send(value)
        except BaseException:  # StopIteration is how a coroutine ends
            self._took(meter.leave(began))
            meter.ended(self._name, self._busy_s, self._longest_s)
            raise
        self._took(meter.leave(began))
        return waits_for

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception, such as a cancellation."""
        meter = self._meter
        began = meter.enter(self._name, self._whose.tag)
        try:
            waits_for = self._work.throw(*error)
        except BaseException:
            self._took(meter.leave(began))
            meter.ended(self._name, self._busy_s, self._longest_s)
            raise
        self._took(meter.leave(began))
        return waits_for

    def _took(self, step_s: float) -> None:
        self._busy_s += step_s
        self._longest_s = max(self._longest_s, step_s)

    def close(self) -> None:
        """Ends the work where it stands."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """As the work itself."""
        return self._work.__await__()

    @property
    def cr_frame(self) -> FrameType | None:
        """Where the work stands, for stacks of tasks."""
        return getattr(self._work, "cr_frame", None)


class Sampled(Stepped):
    """A coroutine whose CPU and waits are measured too."""

    __slots__ = ("_sample",)

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        meter: LoopMeter,
        name: str,
        whose: Tagged,
        sample: LoopSample,
    ) -> None:
        super().__init__(work, meter, name, whose)
        self._sample = sample

    def send(self, value: Any) -> Any:
        """One step."""
        return self._step(super().send, value)

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception."""
        return self._step(super().throw, *error)

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        sample, meter = self._sample, self._meter
        alone = meter.has_one
        sample.resume(meter.busy_s)
        try:
            waits_for = step(*value)
        except BaseException:  # StopIteration is how a coroutine ends
            sample.pause(meter.busy_s)
            sample.end(alone=alone)
            raise
        sample.pause(meter.busy_s)
        return waits_for
