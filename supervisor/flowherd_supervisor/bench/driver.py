"""`flowherd bench`: every load on every number of processes, several times over; it only orchestrates."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from flowherd.errors import ConfigurationError
from flowherd_supervisor.bench import plan
from flowherd_supervisor.bench.activities import rounds_a_ms
from flowherd_supervisor.bench.machine import describe_machine
from flowherd_supervisor.bench.measure import Order, measure
from flowherd_supervisor.bench.runs import Run, curves, document
from flowherd_supervisor.bench.table import summary
from flowherd_supervisor.cli.engine_extra import require_engine
from flowherd_supervisor.demo.session import run_session
from flowherd_supervisor.shell.cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowherd_supervisor.demo import programs
    from flowherd_supervisor.demo.interruption import Interruption
    from flowherd_supervisor.demo.progress import Screen


@dataclass(frozen=True)
class BenchOptions:
    """What `flowherd bench` was asked for.

    Attributes:
        loads: of `plan.LOADS`; without effect where an app is given.
        most: processes; None: one number beyond the usable CPUs.
        app: the user's own, with one of its activities.
        count: of the user's activities in each run.
        seconds: about how long each run of ours takes.
        patience: so many more tries for a run that other programs disturb.
        pictures: files to draw to, `.svg` or `.png`.

    """

    loads: tuple[str, ...] = plan.LOADS
    most: int | None = None
    app: programs.App | None = None
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

    def work(screen: Screen, interruption: Interruption, folder: Path) -> int:
        with screen:
            runs = _measure_all(options, screen, interruption, folder)
        _tell(options, runs)
        return 0

    return run_session("bench", work)


def _refuse_nonsense(options: BenchOptions) -> None:
    unknown = sorted(set(options.loads) - {*plan.LOADS})
    if unknown:
        raise ConfigurationError(f"--loads: no load is called {unknown[0]!r}: {', '.join(plan.LOADS)}")
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


def _loads(options: BenchOptions) -> list[plan.Load]:
    if options.app is None:
        return plan.our_loads(options.loads, rounds_a_ms())
    return [
        plan.Load(
            options.activity,
            options.app,
            options.activity,
            parameters=options.parameters,
            count=options.count,
        )
    ]


def _measure_all(
    options: BenchOptions, screen: Screen, interruption: Interruption, folder: Path
) -> list[Run]:
    """Repeat after repeat, so that what disturbs the machine for a while disturbs all points alike."""
    cpus, loads = usable_cpus(), _loads(options)
    counts = plan.process_counts(cpus, options.most)
    slots = plan.slots_for(counts)
    screen.say(
        f"flowherd bench: {', '.join(load.name for load in loads)} on {', '.join(map(str, counts))} processes, "
        f"{options.repeat} times, {slots} slots",
        "A real engine and real worker processes on this machine; no other engine is touched.",
        "",
    )
    runs = []
    for repeat in range(options.repeat):
        for load in loads:
            for count in counts:
                own = folder / f"{load.name}-{count}-{repeat}"
                number = load.activities(count, cpus, slots, options.seconds)
                stage = screen.stage(f"{load.name}, {count} of {counts[-1]}, {repeat + 1}.", number)
                order = Order(load, repeat, count, slots, number, own, stage, interruption)
                runs += _measure_patiently(order, cpus, options.patience)
    return runs


def _measure_patiently(order: Order, cpus: int, patience: int) -> list[Run]:
    """One run, and more as long as other programs disturb them, but not for ever."""
    runs: list[Run] = []
    while not runs or (not runs[-1].is_calm(cpus) and len(runs) <= patience):
        own = order.folder / str(len(runs))
        (own / "run").mkdir(mode=0o700, parents=True)
        runs.append(measure(replace(order, folder=own)))
        order.stage.finish(runs[-1].completed, f"{runs[-1].activities_per_s:.1f}/s")
    return runs


def _tell(options: BenchOptions, runs: list[Run]) -> None:
    cpus, machine = usable_cpus(), describe_machine()
    found = curves(runs, cpus)
    if options.json:
        os.write(1, (json.dumps(document(runs, cpus)) + "\n").encode())
    else:
        Console().print(summary(found, cpus, machine))
    if options.pictures:
        from flowherd_supervisor.bench.plot import draw  # noqa: PLC0415 - half a second, and an extra

        draw(found, cpus, f"{machine}; medians of {options.repeat} runs", options.pictures)
