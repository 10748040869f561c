"""Finds what blocks a loop, and where: a thread looks at the loop's thread while a step lasts."""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from collections import Counter
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from flowherd.background import start_thread
from flowherd.execution.gil_probe import GilProbe
from flowherd.execution.occupancy import (
    OCCUPIES_S,
    ThreadFigures,
    cpu_share,
    frozen_s,
    occupied_s,
    own_switches,
)
from flowherd.thread_time import queued_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from flowherd.execution.loop_meter import LongStep, LoopMeter
    from flowherd.execution.occupancy import Reading

BLOCKED_S = 0.25  # a step this long is logged
_LOOK_EVERY_S = 0.05
_LOOK_AGAIN_S = (
    0.2  # while none runs, but one has lately: to be woken for each would cost more than a short one does
)
_RESTS_AFTER = 10  # looks in vain
_SAY_AGAIN_AFTER_S = 60.0
_RUNS_REMEMBERED = 1024
_IMPORTS = "<frozen importlib._bootstrap>"
_NOT_THE_USERS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).parent)}
)

log = structlog.stdlib.get_logger(__name__)


def _pause() -> float:
    due = time.perf_counter() + _LOOK_AGAIN_S
    threading.Event().wait(_LOOK_AGAIN_S)
    return due


class Occupied(NamedTuple):
    """A run of an activity that occupies its loop, told once while it lasts, if it is seen then, and once at its end.

    Attributes:
        name: the activity.
        place: `file:line` where it stands, "" when nobody saw it there.
        seconds: the time in its longest step so far.
        cpu_share: the share of a CPU that this step took, between `LEAST_SHARE` and 1.
        is_over: True when the step has ended.
        is_new: True when nothing was told of the run before.

    """

    name: str
    place: str
    seconds: float
    cpu_share: float
    is_over: bool
    is_new: bool = True


def _nothing(_: Occupied) -> None:
    """For a loop whose blockers nobody moves."""


class Watchdog:
    """Looks some twenty times a second while something runs, and sleeps two seconds after the last has ended.

    Args:
        meter: tells since when a handler has been on the loop.
        loop_thread: the loop's thread; by default the calling one.
        found: called with the place, once for each step that blocks for `BLOCKED_S`.
        probe: the probe to sleep with between two checks, None for one that records nothing.
        ids: returns the names of the attempt on the loop, for the log.
        occupied: called for runs that occupy the loop for `OCCUPIES_S`; see `Occupied`.

    Attributes:
        places: the number of blocking steps found at each `file:line`.

    """

    def __init__(
        self,
        meter: LoopMeter,
        found: Callable[[str], None],
        probe: GilProbe | None = None,
        *,
        loop_thread: threading.Thread | None = None,
        ids: Callable[[], Mapping[str, Any]] = dict,
        occupied: Callable[[Occupied], None] = _nothing,
    ) -> None:
        thread = loop_thread or threading.current_thread()
        assert thread.ident is not None
        self._meter = meter
        self._loop_thread = thread.ident
        self._figures = ThreadFigures(
            threading.get_native_id() if loop_thread is None else thread.native_id or 0
        )
        self._found = found
        self._ids = ids
        self._occupied = occupied
        self._probe = probe or GilProbe(meter, {})
        self._said: dict[str, float] = {}
        self._logged_since = 0.0
        self._told: dict[int, str] = {}  # the place of each run that was told, by the sequence of its record
        self._frozen_s = 0.0
        self._since = 0.0
        self._last = self._before = self._read()
        self.places: Counter[str] = Counter()

    def start(self) -> None:
        """Starts the thread, which logs in the caller's context and ends with the process."""
        context = copy_context()
        start_thread("watchdog", partial(context.run, self._watch))

    def _watch(self) -> None:
        in_vain = _RESTS_AFTER
        while True:
            if in_vain == _RESTS_AFTER:
                self._notice_freeze(self._rest)
                in_vain = 0
            self.look()
            if self._meter.stepping.is_set():
                in_vain = 0
                self._notice_freeze(partial(self._probe.nap, _LOOK_EVERY_S))
            else:
                in_vain += 1
                self._notice_freeze(_pause)

    def _rest(self) -> float:
        self._meter.stepping.wait()
        return self._meter.busy_since

    def _notice_freeze(self, wait: Callable[[], float]) -> None:
        """Waits, and adds the time by which the wait ended late because the process was stopped.

        Args:
            wait: waits, and returns the time at which that was to end, in `perf_counter` seconds.

        """
        queued, switches, began = queued_s(), own_switches(), time.perf_counter()
        due = max(wait(), began)
        late_s = time.perf_counter() - due
        if late_s > 0:
            self._frozen_s += frozen_s(late_s, queued_s() - queued, own_switches() - switches)

    def _read(self) -> Reading:
        now, stays = time.perf_counter(), self._meter.stays_ended
        return self._figures.read(now, self._frozen_s, with_gil=True)._replace(stays_ended=stays)

    def look(self) -> str | None:
        """Judges the steps since the last look, and the current one; returns the place of one that blocks."""
        reading = self._read()
        while self._meter.occupying:
            self._judge_ended(self._meter.occupying.popleft(), reading)
        since, attempt = self._meter.since, self._meter.attempt
        if since != self._since:
            self._since, self._before = since, self._last
        self._last = reading
        if not since or attempt is None or since > reading.at:
            return None
        kept_s = self._occupied_s(self._before, reading, reading.at - since)
        if kept_s < OCCUPIES_S:
            return None
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        place = place_of(frame)
        if is_importing(frame):
            self._told.setdefault(attempt.sequence, "")  # once in a process: no habit of the activity
        share = cpu_share(self._before, reading, kept_s)
        self._tell(attempt.sequence, Occupied(attempt.activity.name, place, kept_s, share, is_over=False))
        return self._log(attempt.activity.name, place, since) if kept_s >= BLOCKED_S else None

    def _judge_ended(self, step: LongStep, reading: Reading) -> None:
        before = self._before if step.began == self._since else self._last
        kept_s = self._occupied_s(before, reading, step.ended - step.began)
        if kept_s >= OCCUPIES_S or self._told.get(step.run):
            share = cpu_share(before, reading, kept_s)
            self._tell(step.run, Occupied(step.name, "", kept_s, share, is_over=True))

    def _occupied_s(self, before: Reading, reading: Reading, length_s: float) -> float:
        beside_threads = bool(self._meter.in_threads) or self._meter.stays_ended != before.stays_ended
        return occupied_s(before, reading, length_s, beside_threads=beside_threads)

    def _tell(self, run: int, found: Occupied) -> None:
        """Tells of a run twice at most: while it lasts, and at its end."""
        if run not in self._told:
            if len(self._told) >= _RUNS_REMEMBERED:
                self._told.clear()
            self._told[run] = "" if found.is_over else found.place
        elif found.is_over and (place := self._told[run]):
            self._told[run] = ""
            found = found._replace(place=place, is_new=False)
        else:
            return
        self._occupied(found)

    def _log(self, name: str, place: str, since: float) -> str | None:
        if since == self._logged_since:
            return None
        self._logged_since = since
        self.places[place] += 1
        self._found(place)
        if time.monotonic() - self._said.get(place, -_SAY_AGAIN_AFTER_S) >= _SAY_AGAIN_AFTER_S:
            self._said[place] = time.monotonic()
            log.warning(
                "loop_blocked",
                place=place,
                longer_than_s=BLOCKED_S,
                times=self.places[place],
                **{"name": name, **self._ids()},
            )
        return place


def is_importing(frame: FrameType | None) -> bool:
    """True when the frame, or one that it was called by, imports a module."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


def place_of(frame: FrameType | None) -> str:
    """Returns `file:line` of the innermost frame outside the standard library and installed packages."""
    innermost = frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno}" if innermost else "unknown"
