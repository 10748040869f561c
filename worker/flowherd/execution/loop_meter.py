"""Tracks the handler on the loop, and how long handlers occupy the loop.

Each handler on the loop is stepped through a wrapper. During a step the ledger's ON_LOOP cell holds the handler's
record, so that the supervisor knows the culprit when the loop hangs.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from flowherd.execution.activity_costs import LONG_STEP_S, ActivityProfile, LoopSample, Stay
from flowherd.execution.occupancy import OCCUPIES_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowherd.worker.attempt import Attempt

BLOCKER_S = 0.1  # a step this long noticeably delays everything else on the loop
LIGHT_S = 0.005  # an activity is light when its attempts occupy the process for at most this long
_SLOWLY = 0.1  # weight of the newest attempt in the mean, when it took less than the mean
_QUICKLY = 0.5  # and when it took more: a process with heavy work must soon claim less


_NEWEST = 0.3  # weight of the newest attempt in the mean share of a CPU
_MOST_REMEMBERED = 64  # ended steps that the watchdog has not judged yet; it looks some twenty times a second


class LongStep(NamedTuple):
    """A step that has ended, in `perf_counter` seconds."""

    name: str
    began: float
    ended: float
    run: int = 0  # the sequence of its record


class LoopMeter:
    """Measures the steps of one worker's handlers, and counts those in threads and isolates.

    Args:
        mark: stores the record on the loop, as its index + 1; 0 for none.
        measures: the profiles that receive the costs, by activity name.

    Attributes:
        since: the start of the current step in `perf_counter` seconds, 0 between steps; read by the watchdog's thread.
        attempt: the attempt of the current step, None between steps; read by the watchdog's thread.
        busy_s: the total of seconds that handlers have occupied the loop.
        last_long: the latest step of `LONG_STEP_S` or longer; read by the watchdog's thread.
        occupying: ended steps of `OCCUPIES_S` or longer, for the watchdog's thread to judge.
        busy_since: the time at which the first handler began after a time without any, in `perf_counter` seconds.
        in_threads: the number of handlers in threads now, by activity; read by the watchdog's thread.
        stays_ended: the number of handlers in threads that have ended; read by the watchdog's thread.
        busy_mean_s: the recent mean of seconds that an attempt occupied this process, on its loop or in threads.
        on_long_step: called with the seconds of each step of `BLOCKER_S` or longer.
        cpu_shares: the recent share of a CPU that an attempt in an isolate took while it had not to wait for one.
        stepping: set while any handler has not ended.
        on_busy: called when the first handler begins after a time without any.
        is_in_turn: True during a turn, in which handlers begin one after the other; all but its first are light.
        on_turn_end: called at the end of a turn.

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
        self.attempt: Attempt | None = None
        self.busy_s = 0.0
        self.last_long = LongStep("", 0.0, 0.0)
        self.occupying: deque[LongStep] = deque(maxlen=_MOST_REMEMBERED)
        self.busy_since = 0.0
        self.in_threads: Counter[str] = Counter()
        self.stays_ended = 0
        self.busy_mean_s = 0.0
        self.cpu_shares: dict[str, float] = {}
        self.stepping = threading.Event()
        self.on_busy: Callable[[], None] | None = None
        self.on_long_step: Callable[[float], None] | None = None
        self._alive = 0
        self.is_in_turn = False
        self.on_turn_end: Callable[[], None] | None = None

    def is_light(self, name: str) -> bool:
        """True when the attempts of this activity are known to be light; False before the first has ended."""
        kind = self._kinds.get(name)
        return kind is not None and kind.has_ended and kind.heaviest_s <= LIGHT_S

    def sample_of(self, name: str) -> LoopSample | None:
        """Counts an attempt that begins on the loop; returns a sample to measure it with, or None for most."""
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
        """Begins a turn; `stepping` stays set until its end."""
        self.is_in_turn = True

    def end_turn(self) -> None:
        """Ends a turn; clears `stepping` when no handler is left."""
        self.is_in_turn = False
        if not self._alive:
            self.stepping.clear()
        if self.on_turn_end is not None:
            self.on_turn_end()

    def enter_thread(self, name: str) -> Stay:
        """Counts a handler that begins in a thread; `leave_thread` must follow at its end."""
        self._begins()
        self.in_threads[name] += 1
        return Stay(self._measures.get(name), alone=self.has_one)

    def leave_thread(self, name: str, stay: Stay) -> None:
        """Counts the end of a handler in a thread."""
        stay.end(alone=self.has_one)
        self._note_busy(self._kinds.get(name) or self._new_kind(name), stay.cpu_s)
        self.in_threads[name] -= 1
        if not self.in_threads[name]:
            del self.in_threads[name]
        self.stays_ended += 1
        self._ends()

    def enter_isolate(self) -> None:
        """Counts a handler that begins in an isolate; `leave_isolate` must follow at its end."""
        self._begins()

    def leave_isolate(self) -> None:
        """Counts the end of a handler in an isolate."""
        self._ends()

    def offloaded(
        self, name: str, *, cpu_s: float, wall_s: float, queued_s: float, growth_bytes: int
    ) -> None:
        """Adds an isolate's measurements of an attempt; ValueError for a negative time.

        Args:
            name: its activity.
            cpu_s: CPU seconds.
            wall_s: seconds from its begin to its end.
            queued_s: the part of these in which it waited for a CPU.
            growth_bytes: of resident memory.

        """
        if cpu_s < 0 or wall_s < 0 or queued_s < 0:
            raise ValueError("no time is negative")
        if (awake_s := wall_s - queued_s) > 0:
            before = self.cpu_shares.get(name)
            share = min(cpu_s / awake_s, 1.0)
            self.cpu_shares[name] = share if before is None else before + _NEWEST * (share - before)
        if (measure := self._measures.get(name)) is not None:
            measure.offloaded(cpu_s=cpu_s, wall_s=wall_s, growth_bytes=growth_bytes)

    @property
    def has_one(self) -> bool:
        """True when exactly one handler runs, on the loop, in a thread or in an isolate."""
        return self._alive == 1

    @property
    def name(self) -> str:
        """The activity of the current step, "" between steps."""
        return "" if self.attempt is None else self.attempt.activity.name

    def enter(self, attempt: Attempt) -> float:
        """Begins a step; returns its start in `perf_counter` seconds."""
        self._mark(attempt.index + 1)
        self.attempt = attempt
        self.since = now = perf_counter()
        return now

    def leave(self, began: float) -> float:
        """Ends the step that began at `began`; returns its length in seconds."""
        now = perf_counter()
        length_s = now - began
        self.busy_s += length_s
        if length_s >= LONG_STEP_S:
            self._note_long_step(began, now)
        self.since = 0.0
        self.attempt = None
        self._mark(0)
        if length_s >= BLOCKER_S and self.on_long_step is not None:
            self.on_long_step(length_s)
        return length_s

    def _note_long_step(self, began: float, now: float) -> None:
        attempt = self.attempt
        assert attempt is not None
        name = attempt.activity.name
        self.last_long = step = LongStep(name, began, now, attempt.sequence)
        if now - began >= OCCUPIES_S:
            self.occupying.append(step)
        if (measure := self._measures.get(name)) is not None:
            measure.long_step(now - began)

    def ended(self, name: str, busy_s: float, longest_s: float) -> None:
        """Counts the end of a handler on the loop, and updates the decaying maximum of its activity."""
        kind = self._kinds.get(name) or self._new_kind(name)
        if kind.measure is not None:
            kind.measure.kept_loop(busy_s, longest_s)
        self._note_busy(kind, busy_s)
        self._ends()

    def _note_busy(self, kind: _Kind, busy_s: float) -> None:
        """Updates the mean by which polls are sized; threads count too, because they share the GIL or a core."""
        more_s = busy_s - self.busy_mean_s
        self.busy_mean_s += more_s * (_QUICKLY if more_s > 0 else _SLOWLY)
        faded_s = kind.heaviest_s * (1 - _SLOWLY)
        kind.heaviest_s = max(faded_s, busy_s)
        kind.has_ended = True

    def _begins(self) -> None:
        self._alive += 1
        if self._alive == 1 and not self.stepping.is_set():
            self.busy_since = perf_counter()
            self.stepping.set()
            if self.on_busy is not None:
                self.on_busy()

    def _ends(self) -> None:
        self._alive -= 1
        if not self._alive and not self.is_in_turn:
            self.stepping.clear()


class _Kind:
    """The state kept for one activity name."""

    __slots__ = ("has_ended", "heaviest_s", "measure")

    def __init__(self, measure: ActivityProfile | None) -> None:
        self.measure = measure
        self.has_ended = False
        self.heaviest_s = 0.0
