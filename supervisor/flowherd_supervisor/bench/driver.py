"""`flowherd bench`: runs every load on every number of processes several times, each on a fresh engine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from flowherd.counted import counted
from flowherd.errors import ConfigurationError
from flowherd_supervisor.bench.report import Run, curves, describe_machine, document, draw, rate, summary
from flowherd_supervisor.demo.app import compute
from flowherd_supervisor.demo.driver import DEMO, App, Session, run_session
from flowherd_supervisor.print_text import print_text
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
SLOTS_EACH = 4  # so that the next activity is already claimed when one ends
LEAST_SLOTS = 16
CPU_MS, MIXED_CPU_MS = 50.0, 25.0  # long compared with the engine's cost per activity on the same CPUs
IO_S, MIXED_WAIT_S = 0.2, 0.1
LEAST_ACTIVITIES = 40
LOOK_EVERY_S = 0.25  # each query takes CPU from the activities
LIMIT_S = 60.0  # of one run; activities that have ended by then count
_GOLDEN = 0.618_033_988_75


@dataclass(frozen=True)
class BenchOptions:
    """The options of `flowherd bench`.

    Attributes:
        loads: names from `LOADS`; ignored if an app is given.
        most: largest number of processes; None: one step beyond the usable CPUs.
        app: the user's own app, with one of its activities.
        count: number of the user's activities in each run.
        seconds: approximate duration of each built-in run.
        patience: number of further tries for a run that other programs disturb.
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
    """Measures, prints and draws; returns the exit code: 0 measured, 1 could not run, 2 usage, 130 Ctrl-C.

    Raises:
        ConfigurationError: the options are inconsistent, or an extra is missing.

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
            print_text(summary(found, cpus, machine))
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
    """Measures all points once per repeat, so that a disturbance of the machine affects all points alike."""
    if options.app is None:
        loads = our_loads(options.loads, rounds_a_ms())
    else:
        name, count = options.activity, options.count
        loads = [Load(name, options.app, name, parameters=options.parameters, count=count)]
    cpus = usable_cpus()
    counts = process_counts(cpus, options.most)
    slots = slots_for(counts)
    session.screen.say(
        f"flowherd bench: {', '.join(load.name for load in loads)}; processes: {', '.join(map(str, counts))}; "
        f"{counted(options.repeat, 'time')}, {counted(slots, 'slot')}",
        "The embedded engine and real worker processes, on this machine; no other engine is touched.",
        "",
    )
    runs: list[Run] = []
    for repeat in range(options.repeat):
        for load in loads:
            for count in counts:
                number = load.activities(count, cpus, slots, options.seconds)
                stage = session.screen.stage(f"{load.name}, {count} of {counts[-1]}, {repeat + 1}.", number)
                for _ in range(1 + options.patience):  # again while other programs disturb it
                    runs.append(Measurement(session, stage, load, count, slots, number).run(repeat))
                    stage.finish(runs[-1].completed, f"{runs[-1].activities_per_s:.1f}/s")
                    if runs[-1].is_calm(cpus):
                        break
    return runs


# Loads


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work.

    Attributes:
        name: name in the table and the picture.
        app: the app with the activity.
        activity: the activity to queue.
        cpu_s: seconds of CPU of each activity; 0 if unknown or none.
        wait_s: mean seconds that each waits without the CPU.
        rounds: `cpu_s` in rounds of the demo's activity.
        parameters: parameters of the user's own activity.
        count: number of activities in each run; None: as many as fill the time.

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
        """Returns the parameters of activity number `index`; waits differ, so that not all end at the same time."""
        if self.app is not DEMO:
            return dict(self.parameters)
        spread = 0.5 + index * _GOLDEN % 1.0
        return {"wait_s": round(self.wait_s * spread, 4), "rounds": self.rounds}

    def activities(self, processes: int, cpus: int, slots: int, seconds: float) -> int:
        """Returns the number of activities that keep `processes` processes busy for about `seconds` seconds."""
        if self.count is not None:
            return self.count
        by_slots = slots / (self.cpu_s + self.wait_s)
        by_cpu = min(processes, cpus) / self.cpu_s if self.cpu_s else by_slots
        return max(LEAST_ACTIVITIES, round(seconds * min(by_slots, by_cpu)))


def our_loads(names: Sequence[str], rounds_a_ms: float) -> list[Load]:
    """Returns the built-in loads: computing, waiting, and both, with the demo's activity `step`."""
    shapes = {"cpu": (CPU_MS, 0.0), "io": (0.0, IO_S), "mixed": (MIXED_CPU_MS, MIXED_WAIT_S)}
    return [
        Load(name, DEMO, "step", cpu_ms / 1e3, wait_s, round(cpu_ms * rounds_a_ms))
        for name, (cpu_ms, wait_s) in shapes.items()
        if name in names
    ]


def rounds_a_ms(probe: int = 200_000, tries: int = 5) -> float:
    """Returns the rounds per millisecond of CPU on this machine; the best of some tries, since noise only slows."""
    best_s = float("inf")
    for _ in range(tries):
        begun_s = time.process_time()
        compute(probe)
        best_s = min(best_s, time.process_time() - begun_s)
    return probe / best_s / 1e3


def process_counts(cpus: int, most: int | None = None) -> tuple[int, ...]:
    """Returns 1, 2, 4, … up to the usable CPUs, and one number beyond, to show that more does not help.

    With `most` the list ends with that number.
    """
    if cpus <= 4:
        counts = list(range(1, cpus + 1))
    else:
        counts = [1 << power for power in range(cpus.bit_length()) if 1 << power < cpus] + [cpus]
    counts.append(cpus + max(1, cpus // 4))
    return tuple(counts) if most is None else (*(count for count in counts if count < most), most)


def slots_for(counts: Sequence[int]) -> int:
    """Returns the same number of slots for all runs, so that more processes do not profit from more slots."""
    return max(LEAST_SLOTS, SLOTS_EACH * max(counts))


# One run


@dataclass(frozen=True, slots=True)
class _Sample:
    """CPU seconds used so far by the engine, by all our programs, and by all programs."""

    at_s: float
    engine_s: float
    ours_s: float
    all_s: float


@dataclass(frozen=True)
class Measurement:
    """A single run of one load on a number of processes: a fresh engine with a full queue, and a supervisor."""

    session: Session
    stage: Stage
    load: Load
    processes: int
    slots: int
    activities: int

    def run(self, repeat: int) -> Run:
        """Runs and returns the result; both programs have ended by then.

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
        # With a part of the CPUs only, load on the others does not matter.
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
        """Queues everything before the supervisor starts."""
        names, worker = tuple(self.load.inputs(0)), self.load.app.worker
        deployed = engine.client.deploy(one_step("bench", self.load.activity, names, worker=worker))
        for index in range(self.activities):
            self.session.check()
            engine.client.submit(deployed, self.load.inputs(index))
        self.stage.update(0, "starting")

    def _watch(self, engine: EngineProgram, host: SupervisorProgram) -> tuple[int, int, _Sample, _Sample]:
        """Waits until all have ended or time is up; returns completed, failed, and the first and last CPU sample."""
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
    # `user` already contains `guest`.
    busy = sum(used) - idle - getattr(used, "guest", 0.0) - getattr(used, "guest_nice", 0.0)
    return _Sample(time.monotonic(), engine_s, ours_s, busy)


def _cpu_s(pid: int) -> float:
    """Returns the CPU seconds of a program and its live descendants."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total
