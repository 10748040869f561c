"""Puts together what measures a worker's handlers, on the loop and from beside it; it judges nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from flowherd.ledger import Berth, Cell
from flowherd.execution.gil import GilProbe
from flowherd.execution.load import LoadMeter
from flowherd.execution.profiles import Measures
from flowherd.running.lag import LagProbe
from flowherd.running.stepping import LoopMeter
from flowherd.running.watchdog import Watchdog
from flowherd.sdk.activity import Mode
from flowherd.ledger.activity_profile import Where

if TYPE_CHECKING:
    from flowherd.sdk.registry import Registry

_PLACES = {Mode.LOOP: Where.LOOP, Mode.THREAD: Where.THREAD, Mode.PROCESS: Where.PROCESS}


def measuring(registry: Registry, berth: Berth) -> tuple[LoopMeter, LoadMeter, Watchdog]:
    """A meter of the running loop that writes into `berth`, what publishes its numbers, and a watchdog to start.

    Args:
        registry: the activities that are hosted.
        berth: opened already: opening clears it.

    """
    measures = Measures({found.name: _PLACES[found.mode] for found in registry}, berth.work)
    meter = LoopMeter(berth.writer_of(Cell.ON_LOOP), measures.by_name)
    load = LoadMeter(berth, meter, measures)
    meter.on_busy = LagProbe(meter.stepping.is_set, load).start
    meter.on_long_step = lambda step_s: berth.add(Cell.BLOCKED_US, int(step_s * 1e6))
    probe = GilProbe(meter, measures.by_name)
    return meter, load, Watchdog(meter, threading.get_ident(), berth.note_block, probe)
