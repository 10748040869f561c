"""Puts together what measures a worker's handlers, on the loop and from beside it; it judges nothing."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from flowherd.execution.activity_profiler import ActivityProfiles
from flowherd.execution.blocked_loop import Watchdog
from flowherd.execution.busy_share import BusyShareMeter
from flowherd.execution.gil_probe import GilProbe
from flowherd.execution.loop_lag import LagProbe
from flowherd.execution.loop_meter import LoopMeter
from flowherd.ledger import Cell, Segment
from flowherd.ledger.activity_profile import Where
from flowherd.sdk.activity_definition import Mode

if TYPE_CHECKING:
    from flowherd.sdk.registry import Registry

_PLACES = {Mode.LOOP: Where.LOOP, Mode.THREAD: Where.THREAD, Mode.PROCESS: Where.PROCESS}


def measuring(registry: Registry, segment: Segment) -> tuple[LoopMeter, BusyShareMeter, Watchdog]:
    """A meter of the running loop that writes into `segment`, what publishes its numbers, and a watchdog to start.

    Args:
        registry: the activities that are hosted.
        segment: opened already: opening clears it.

    """
    measures = ActivityProfiles({found.name: _PLACES[found.mode] for found in registry}, segment.work)
    meter = LoopMeter(segment.writer_of(Cell.ON_LOOP), measures.by_name)
    load = BusyShareMeter(segment, meter, measures)
    meter.on_busy = LagProbe(meter.stepping.is_set, load).start
    meter.on_long_step = lambda step_s: segment.add(Cell.BLOCKED_US, int(step_s * 1e6))
    probe = GilProbe(meter, measures.by_name)
    ids = partial(_ids_on_loop, segment)
    return meter, load, Watchdog(meter, threading.get_ident(), segment.note_block, probe, ids)


def _ids_on_loop(segment: Segment) -> dict[str, str]:
    """The names of the attempt whose handler is on the loop, as far as its record says so."""
    place = segment.get(Cell.ON_LOOP)
    record = segment.record(place - 1) if place else None
    return {} if record is None else record.ids
