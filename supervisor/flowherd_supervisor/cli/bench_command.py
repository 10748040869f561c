"""The flags of `flowherd bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowherd.settings import DEFAULT_WORKER_TYPE


def bench(
    app_name: Annotated[
        str | None, Parameter(name="APP", help="an app of yours; by default flowherd's own loads")
    ] = None,
    /,
    *,
    activity: Annotated[str, Parameter(help="name of the activity of APP to queue", show_default=False)] = "",
    params: Annotated[
        list[str] | None,
        Parameter(name=["-P"], help="an input: key=value, read as JSON, else as text", negative=""),
    ] = None,
    worker: Annotated[str, Parameter(help="worker type of APP")] = DEFAULT_WORKER_TYPE,
    app_dir: Annotated[Path, Parameter(help="first folder of the import path")] = Path(),
    activities: Annotated[int, Parameter(help="activities of APP to queue for each run")] = 200,
    processes: Annotated[
        int | None,
        Parameter(
            name=["--processes", "-p"], help="largest number of processes [default: one step beyond the CPUs]"
        ),
    ] = None,
    loads: Annotated[str, Parameter(help="flowherd's own loads to run")] = "cpu,io,mixed",
    seconds: Annotated[float, Parameter(help="approximate seconds for each run of these loads")] = 4.0,
    repeat: Annotated[int, Parameter(help="repetitions")] = 3,
    patience: Annotated[int, Parameter(help="extra tries for a run that other programs disturb")] = 0,
    plot: Annotated[
        list[Path] | None, Parameter(help="draw to this file, .svg or .png; may be repeated", negative="")
    ] = None,
    json: Annotated[bool, Parameter(help="print all runs as a JSON list", negative="")] = False,
) -> int:
    """Measure how work scales with processes on this machine: a table, a picture, and what it means."""
    from flowherd_supervisor.bench.driver import BenchOptions, run_bench  # noqa: PLC0415 - `flowherd --help` needs none of it
    from flowherd_supervisor.cli.submit import read_inputs  # noqa: PLC0415 - as above
    from flowherd_supervisor.demo.driver import App  # noqa: PLC0415 - as above

    options = BenchOptions(
        loads=tuple(name.strip() for name in loads.split(",") if name.strip()),
        most=processes,
        app=None if app_name is None else App(app_name, worker, app_dir.absolute()),
        activity=activity,
        parameters=read_inputs(params or (), None),
        count=activities,
        seconds=seconds,
        repeat=repeat,
        patience=patience,
        json=json,
        pictures=tuple(plot or ()),
    )
    return run_bench(options)
