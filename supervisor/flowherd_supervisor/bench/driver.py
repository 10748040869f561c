"""`flowherd bench`: every load on every number of processes, several times over, each on a fresh engine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from flowherd.errors import ConfigurationError
from flowherd_supervisor.bench.report import Run, curves, describe_machine, document, draw, rate, summary
from flowherd_supervisor.demo.app import compute
from flowherd_supervisor.demo.driver import DEMO, App, Session, run_session
from flowherd_supervisor.processes.cpus import usable_cpus
from flowherd_supervisor.require_engine_extra import require_engine
from flowherd_supervisor.testkit.workflow_client import one_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowherd_supervisor.demo.report import Stage
    from flowherd_supervisor.testkit.engine_program import EngineProgram
    from flowherd_supervisor.testkit.supervisor_program import SupervisorProgram

LOADS = ("cpu", "io", "mixed")
SLOTS_EACH = 4  # the next activity is there when one ends
LEAST_SLOTS = 16
CPU_MS, MIXED_CPU_MS = 50.0, 25.0  # long beside what an activity costs the engine, which has the same CPUs
IO_S, MIXED_WAIT_S = 0.2, 0.1
LEAST_ACTIVITIES = 40
LOOK_EVERY_S = 0.25  # each look costs CPU that the activities could use
LIMIT_S = 60.0  # of one run: what has ended by then counts
_GOLDEN = 0.618_033_988_75


@dataclass(frozen=True)
class BenchOptions:
    """The options of `flowherd bench`.

    Attributes:
        loads: of `LOADS`; without effect where an app is given.
        most: processes; None: one number beyond the usable CPUs.
        app: the user's own, with one of its activities.
        count: of the user's activities in each run.
        seconds: approximate length of each run of the loads.
        patience: so many more tries for a run that other programs disturb.
        pictures: files to draw to, `.svg` or `.png`.

    """

    loads: tuple[str, ...] = LOADS
    most: int | None = None
    app: App | None = None
    activity: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    count: int = 200
    seconds: float = 4.0
    repeat: int = 3
    patience: int = 0
    json: bool = False
    pictures: tuple[Path, ...] = ()


def run_bench(options: BenchOptions) -> int:
    """ActivityProfile, print, draw; return the exit code: 0 measured, 1 it could not run, 2 usage, 130 Ctrl-C.

    Raises:
        ConfigurationError: the options make no sense, or an extra is missing.

    """
    _refuse_nonsense(options)

    def work(session: Session) -> int:
        with session.screen:
            runs = _measure_all(options, session)
        cpus, machine = usable_cpus(), describe_machine()
        found = curves(runs, cpus)
        if options.json:
            os.write(1, (json.dumps(document(runs, cpus)) + "\n").encode())
        else:
            Console().print(summary(found, cpus, machine))
        if options.pictures:
            draw(found, cpus, f"{machine}; medians of {options.repeat} runs", options.pictures)
        return 0

    return run_session("bench", work)


def _refuse_nonsense(options: BenchOptions) -> None:
    unknown = sorted(set(options.loads) - {*LOADS})
    if unknown:
        raise ConfigurationError(f"--loads: no load is called {unknown[0]!r}: {', '.join(LOADS)}")
    if options.most is not None and options.most < 1:
        raise ConfigurationError("-p: at least one process")
    if min(options.repeat, options.count) < 1 or options.seconds <= 0 or options.patience < 0:
        raise ConfigurationError(
            "--repeat and --activities are at least 1, --seconds is more than 0, --patience not less"
        )
    if (options.app is None) != (not options.activity):
        raise ConfigurationError("an APP needs --activity NAME, and --activity needs an APP")
    require_engine("bench")
    for path in options.pictures:
        if path.suffix not in {".svg", ".png"}:
            raise ConfigurationError(f"--plot: {path.name} must end in .svg or .png")
    if options.pictures and importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("--plot needs matplotlib: pip install 'flowherd[bench]'")


def _measure_all(options: BenchOptions, session: Session) -> list[Run]:
    """Repeat after repeat, so that what disturbs the machine for a while disturbs all points alike."""
    if options.app is None:
        loads = our_loads(options.loads, rounds_a_ms())
    else:
        name, count = options.activity, options.count
        loads = [Load(name, options.app, name, parameters=options.parameters, count=count)]
    cpus = usable_cpus()
    counts = process_counts(cpus, options.most)
    slots = slots_for(counts)
    session.screen.say(
        f"flowherd bench: {', '.join(load.name for load in loads)} on {', '.join(map(str, counts))} processes, "
        f"{options.repeat} times, {slots} slots",
        "A real engine and real worker processes on this machine; no other engine is touched.",
        "",
    )
    runs: list[Run] = []
    for repeat in range(options.repeat):
        for load in loads:
            for count in counts:
                number = load.activities(count, cpus, slots, options.seconds)
                stage = session.screen.stage(f"{load.name}, {count} of {counts[-1]}, {repeat + 1}.", number)
                for _ in range(
                    1 + options.patience
                ):  # again while other programs disturb it, but not for ever
                    runs.append(Measurement(session, stage, load, count, slots, number).run(repeat))
                    stage.finish(runs[-1].completed, f"{runs[-1].activities_per_s:.1f}/s")
                    if runs[-1].is_calm(cpus):
                        break
    return runs


# What is measured


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work.

    Attributes:
        name: in the table and the picture.
        app: hosts it.
        activity: the one that is queued.
        cpu_s: seconds of CPU of each activity; 0: unknown, or none.
        wait_s: mean seconds each waits without the CPU.
        rounds: `cpu_s` in rounds of our own activity.
        parameters: of the user's own activity.
        count: of activities in each run; None: as many as fill the time.

    """

    name: str
    app: App
    activity: str
    cpu_s: float = 0.0
    wait_s: float = 0.0
    rounds: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None

    def inputs(self, index: int) -> dict[str, Any]:
        """The parameters of activity number `index`; waits differ, or all would end at the same time."""
        if self.app is not DEMO:
            return dict(self.parameters)
        spread = 0.5 + index * _GOLDEN % 1.0
        return {"wait_s": round(self.wait_s * spread, 4), "rounds": self.rounds}

    def activities(self, processes: int, cpus: int, slots: int, seconds: float) -> int:
        """The number of activities that keep so many processes busy for about so many seconds."""
        if self.count is not None:
            return self.count
        by_slots = slots / (self.cpu_s + self.wait_s)
        by_cpu = min(processes, cpus) / self.cpu_s if self.cpu_s else by_slots
        return max(LEAST_ACTIVITIES, round(seconds * min(by_slots, by_cpu)))


def our_loads(names: Sequence[str], rounds_a_ms: float) -> list[Load]:
    """Computing, waiting, and both, by the demo's activity `step`."""
    shapes = {"cpu": (CPU_MS, 0.0), "io": (0.0, IO_S), "mixed": (MIXED_CPU_MS, MIXED_WAIT_S)}
    return [
        Load(name, DEMO, "step", cpu_ms / 1e3, wait_s, round(cpu_ms * rounds_a_ms))
        for name, (cpu_ms, wait_s) in shapes.items()
        if name in names
    ]


def rounds_a_ms(probe: int = 200_000, tries: int = 5) -> float:
    """The rounds in a millisecond of this machine's CPU; the best of some tries, since noise only slows."""
    best_s = float("inf")
    for _ in range(tries):
        begun_s = time.process_time()
        compute(probe)
        best_s = min(best_s, time.process_time() - begun_s)
    return probe / best_s / 1e3


def process_counts(cpus: int, most: int | None = None) -> tuple[int, ...]:
    """1, 2, 4, … up to the usable CPUs, and one number beyond, to see that more does not help.

    `most` ends the row, and is the last in it.
    """
    if cpus <= 4:
        counts = list(range(1, cpus + 1))
    else:
        counts = [1 << power for power in range(cpus.bit_length()) if 1 << power < cpus] + [cpus]
    counts.append(cpus + max(1, cpus // 4))
    return tuple(counts) if most is None else (*(count for count in counts if count < most), most)


def slots_for(counts: Sequence[int]) -> int:
    """The same number for all: more processes must not look better because they may hold more."""
    return max(LEAST_SLOTS, SLOTS_EACH * max(counts))


# One run


@dataclass(frozen=True, slots=True)
class _Sample:
    """CPU seconds used so far: by the engine, by all of ours, and by all programs."""

    at_s: float
    engine_s: float
    ours_s: float
    all_s: float


@dataclass(frozen=True)
class Measurement:
    """A single run of one load on so many processes: a fresh engine with a full queue, and a supervisor."""

    session: Session
    stage: Stage
    load: Load
    processes: int
    slots: int
    activities: int

    def run(self, repeat: int) -> Run:
        """Both programs have ended when it returns.

        Raises:
            ProgramError: a program did not start or ended too early.

        """
        with self.session.engine() as engine:
            self._queue(engine)
            began_s = time.time()
            with self.session.host(engine, self.processes, self.slots, self.load.app) as host:
                completed, failed, first, last = self._watch(engine, host)
                accepted = host.status().get("totals", {}).get("completed", 0)
            ended_at = engine.client.ended_at()
        ended = completed + failed
        is_cut = ended < self.activities
        took_s = max(last.at_s - first.at_s, 1e-9)
        others_s = (last.all_s - first.all_s) - (last.ours_s - first.ours_s)
        # Where we may use a part of the machine's CPUs only, the rest is no matter of ours.
        has_all_cpus = usable_cpus() == (os.cpu_count() or 1)
        return Run(
            load=self.load.name,
            repeat=repeat,
            processes=self.processes,
            slots=self.slots,
            activities=ended,
            completed=completed,
            failed=failed,
            lost=0,
            duplicates=0 if is_cut else max(0, accepted - completed),
            wall_s=max(ended_at, default=began_s) - began_s,
            activities_per_s=rate(ended_at, self.slots),
            engine_cpu=max((last.engine_s - first.engine_s) / took_s, 0.0),
            others_cpu=max(others_s / took_s, 0.0) if has_all_cpus else None,
        )

    def _queue(self, engine: EngineProgram) -> None:
        """Queues everything before the host takes any."""
        names, worker = tuple(self.load.inputs(0)), self.load.app.worker
        deployed = engine.client.deploy(one_step("bench", self.load.activity, names, worker=worker))
        for index in range(self.activities):
            self.session.check()
            engine.client.submit(deployed, self.load.inputs(index))
        self.stage.update(0, "starting")

    def _watch(self, engine: EngineProgram, host: SupervisorProgram) -> tuple[int, int, _Sample, _Sample]:
        """Look until all have ended or the time is up; completed, failed, and the CPU between two moments."""
        give_up_s = time.monotonic() + LIMIT_S
        first: _Sample | None = None
        while True:
            completed, failed = engine.client.total("completed"), engine.client.total("failed")
            self.stage.update(completed)
            is_over = completed + failed >= self.activities or time.monotonic() > give_up_s
            if (first is None and completed) or is_over:
                last = _sample(engine, host)
                first = first or last
                if is_over:
                    return completed, failed, first, last
            self.session.pause(host, LOOK_EVERY_S)


def _sample(engine: EngineProgram, host: SupervisorProgram) -> _Sample:
    used = psutil.cpu_times()
    idle = used.idle + getattr(used, "iowait", 0.0)
    engine_s = _cpu_s(engine.process.pid)
    ours_s = engine_s + _cpu_s(host.pid) + time.process_time()
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
