"""One run: a fresh engine with a full queue, a supervisor with N processes, and what they did; it judges nothing."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from flowherd_supervisor.bench.runs import Run, rate
from flowherd_supervisor.demo import programs
from flowherd_supervisor.demo.client import EngineApi, StatusSocket
from flowherd_supervisor.demo.phase import accepted_twice
from flowherd_supervisor.shell.cpus import usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

    from flowherd_supervisor.bench.plan import Load
    from flowherd_supervisor.demo.interruption import Interruption
    from flowherd_supervisor.demo.progress import Stage

LOOK_EVERY_S = 0.25  # each look costs CPU that the activities could use
LIMIT_S = 60.0  # of one run: what has ended by then counts


@dataclass(frozen=True)
class Order:
    """What one run shall measure; `folder` is its own."""

    load: Load
    repeat: int
    processes: int
    slots: int
    activities: int
    folder: Path
    stage: Stage
    interruption: Interruption


@dataclass(frozen=True, slots=True)
class _Sample:
    """CPU seconds used so far, by whom."""

    at_s: float
    engine_s: float
    ours_s: float
    all_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the looks from outside have brought."""

    completed: int
    failed: int
    is_cut: bool
    first: _Sample
    last: _Sample


def measure(order: Order) -> Run:
    """Run the load once; both programs have ended when it returns.

    Raises:
        ProgramError: a program did not start or ended too early.

    """
    with programs.engine_program(order.folder) as (engine, url), EngineApi(url) as api:
        _queue(order, api)
        began_s = time.time()
        with programs.supervisor(
            order.folder, url, order.processes, order.slots, order.load.app
        ) as supervisor:
            seen = _watch(order, api, engine, supervisor)
            with StatusSocket(programs.status_socket(order.folder, supervisor)) as socket:
                twice = 0 if seen.is_cut else accepted_twice(socket.read(), seen.completed)
        return _run_of(order, seen, twice, api.ended_at(), began_s)


def _queue(order: Order, api: EngineApi) -> None:
    """Queue everything while nobody takes any."""
    load = order.load
    version = api.deploy("bench", load.activity, tuple(load.inputs(0)), load.app.worker)
    for index in range(order.activities):
        order.interruption.check()
        api.submit("bench", version, load.inputs(index))
        if index % 50 == 0:
            order.stage.update(0, f"queueing {index}")
    order.stage.update(0, "starting")


def _watch(order: Order, api: EngineApi, engine: programs.Program, supervisor: programs.Program) -> _Seen:
    """Look until all have ended or the time is up."""
    give_up_s = time.monotonic() + LIMIT_S
    first: _Sample | None = None
    while True:
        completed, failed = api.total("completed"), api.total("failed")
        order.stage.update(completed)
        is_cut = time.monotonic() > give_up_s
        if (first is None and completed) or is_cut or completed + failed >= order.activities:
            last = _sample(engine, supervisor)
            first = first or last
            if is_cut or completed + failed >= order.activities:
                return _Seen(completed, failed, is_cut, first, last)
        supervisor.wait(LOOK_EVERY_S)
        supervisor.check()
        order.interruption.check()


def _sample(engine: programs.Program, supervisor: programs.Program) -> _Sample:
    used = psutil.cpu_times()
    idle = used.idle + getattr(used, "iowait", 0.0)
    engine_s = _cpu_s(engine.process.pid)
    ours_s = engine_s + _cpu_s(supervisor.process.pid) + time.process_time()
    # `guest` is counted in `user` already.
    busy = sum(used) - idle - getattr(used, "guest", 0.0) - getattr(used, "guest_nice", 0.0)
    return _Sample(time.monotonic(), engine_s, ours_s, busy)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a program and its living descendants."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def _run_of(order: Order, seen: _Seen, twice: int, ended_at: list[float], began_s: float) -> Run:
    ended = seen.completed + seen.failed
    return Run(
        load=order.load.name,
        repeat=order.repeat,
        processes=order.processes,
        slots=order.slots,
        activities=ended if seen.is_cut else order.activities,
        completed=seen.completed,
        failed=seen.failed,
        lost=0 if seen.is_cut else order.activities - ended,
        duplicates=twice,
        wall_s=max(ended_at, default=began_s) - began_s,
        activities_per_s=rate(ended_at, order.slots),
        engine_cpu=_share(seen, seen.last.engine_s - seen.first.engine_s),
        others_cpu=_others(seen),
    )


def _share(seen: _Seen, cpu_s: float) -> float:
    took_s = seen.last.at_s - seen.first.at_s
    return max(cpu_s / took_s, 0.0) if took_s > 0 else 0.0


def _others(seen: _Seen) -> float | None:
    """None where we may use a part of the machine's CPUs only: the rest is no matter of ours."""
    if usable_cpus() < (os.cpu_count() or 1):
        return None
    others_s = (seen.last.all_s - seen.first.all_s) - (seen.last.ours_s - seen.first.ours_s)
    return _share(seen, others_s)
