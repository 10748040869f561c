"""Finds the line that blocks a loop: a thread inspects the loop's thread while a step takes too long."""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from collections import Counter
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.background import start_thread
from flowherd.execution.gil_probe import GilProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from flowherd.execution.loop_meter import LoopMeter

BLOCKED_S = 0.25
_LOOK_EVERY_S = 0.05
_LOOK_AGAIN_S = (
    0.2  # while none runs, but one has lately: to be woken for each would cost more than a short one does
)
_RESTS_AFTER = 10  # looks in vain
_SAY_AGAIN_AFTER_S = 60.0
_NOT_THE_USERS = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).parent)}
)

log = structlog.stdlib.get_logger(__name__)


class Watchdog:
    """Looks some twenty times a second while something runs, and sleeps two seconds after the last has ended.

    Args:
        meter: tells since when a handler has been on the loop.
        loop_thread: the id of the thread to inspect.
        found: called with the place, once for each step that blocks.
        probe: the probe to sleep with between two checks, None for one that records nothing.
        ids: returns the names of the attempt on the loop, for the log.

    Attributes:
        places: the number of blocking steps found at each `file:line`.

    """

    def __init__(
        self,
        meter: LoopMeter,
        loop_thread: int,
        found: Callable[[str], None],
        probe: GilProbe | None = None,
        ids: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._meter = meter
        self._loop_thread = loop_thread
        self._found = found
        self._ids = ids
        self._probe = probe or GilProbe(meter, {})
        self._said: dict[str, float] = {}
        self._seen_since = 0.0
        self.places: Counter[str] = Counter()

    def start(self) -> None:
        """Starts the thread, which logs in the caller's context and ends with the process."""
        context = copy_context()
        start_thread("watchdog", partial(context.run, self._watch))

    def _watch(self) -> None:
        in_vain, pause = _RESTS_AFTER, threading.Event()
        while True:
            if in_vain == _RESTS_AFTER:
                self._meter.stepping.wait()
                in_vain = 0
            if self._meter.stepping.is_set():
                in_vain = 0
                self.look()
                self._probe.nap(_LOOK_EVERY_S)
            else:
                in_vain += 1
                pause.wait(_LOOK_AGAIN_S)

    def look(self) -> str | None:
        """Returns the place that blocks when a step has lasted too long, else None; counts each step once."""
        since, name = self._meter.since, self._meter.name
        if not since or since == self._seen_since or time.perf_counter() - since < BLOCKED_S:
            return None
        self._seen_since = since
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        place = place_of(frame)
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


def place_of(frame: FrameType | None) -> str:
    """Returns `file:line` of the innermost frame outside the standard library and installed packages."""
    innermost = frame
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{innermost.f_code.co_filename}:{innermost.f_lineno}" if innermost else "unknown"
