"""`flowherd demo`: the direct computation, one process, all processes, the comparison; it only orchestrates.

It starts engine and supervisor as programs and looks at them from outside, as a user would.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from flowherd.errors import ConfigurationError
from flowherd_supervisor.cli.engine_extra import require_engine
from flowherd_supervisor.demo import corpus
from flowherd_supervisor.demo.chaos import SEED, Chaos
from flowherd_supervisor.demo.phase import Phase, Work, run_phase
from flowherd_supervisor.demo.report import Report, Result, document, summary
from flowherd_supervisor.demo.session import run_session
from flowherd_supervisor.shell.cpus import usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

    from flowherd_supervisor.demo.interruption import Interruption
    from flowherd_supervisor.demo.progress import Screen

ACTIVITIES = 480
"""About 16 s of one CPU: the demo is over in a minute, and a phase is long beside its start."""

REFERENCE_S = 17.5
"""What a slow machine does not compute directly in this time is left out of the demo altogether."""


@dataclass(frozen=True)
class DemoOptions:
    """What `flowherd demo` was asked for.

    `processes` None means all usable CPUs; `limit` is another number of activities and has no flag.
    """

    processes: int | None = None
    chaos: bool = False
    json: bool = False
    limit: int | None = None


def run_demo(options: DemoOptions) -> int:
    """Run the demo and return its exit code: 0 only if every answer was right and nothing was lost.

    1 is a wrong or missing answer or program, 130 Ctrl-C.

    Raises:
        ConfigurationError: the extra `engine` is missing, or the number of processes makes no sense.

    """
    require_engine("demo")
    if options.processes is not None and options.processes < 1:
        raise ConfigurationError("-p: the demo needs at least one process, such as -p 1")

    def work(screen: Screen, interruption: Interruption, folder: Path) -> int:
        with screen:
            report = _demonstrate(options, screen, interruption, folder)
        _print(report, as_json=options.json)
        return 0 if report.good else 1

    return run_session("demo", work)


def _demonstrate(options: DemoOptions, screen: Screen, interruption: Interruption, folder: Path) -> Report:
    cpus = usable_cpus()
    processes = options.processes or cpus
    root = corpus.stdlib()
    chunks = corpus.chunks(root, options.limit or ACTIVITIES)
    files = len({chunk.path for chunk in chunks})
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    screen.say(
        f"flowherd demo: {len(chunks)} activities analyse {files} files of the {python} library",
        "A real engine and real worker processes on this machine; no other engine is touched.",
        "",
    )
    began_s = time.monotonic()
    work = _reference(root, chunks, screen, interruption)
    reference_s = time.monotonic() - began_s

    def phase(count: int, chaos: Chaos | None) -> Result:
        title = "on 1 process" if count == 1 else f"on {count} processes"
        own = folder / f"{count}"
        own.mkdir()
        (own / "run").mkdir(mode=0o700)
        return run_phase(Phase(work, count, own, screen.stage(title, len(work.chunks)), interruption, chaos))

    chaos = Chaos() if options.chaos else None
    baseline = phase(1, chaos if processes == 1 else None)
    main = baseline if processes == 1 else phase(processes, chaos)
    return Report(baseline, main, cpus, files, reference_s, SEED if options.chaos else None)


def _reference(root: Path, chunks: list[corpus.Chunk], screen: Screen, interruption: Interruption) -> Work:
    """Compute the answer here, without flowherd; what was computed in time is the work of the demo."""
    stage = screen.stage("directly, without flowherd", len(chunks))
    began_s = drawn_s = time.monotonic()
    findings = []
    for chunk in chunks:
        interruption.check()
        findings.append((chunk, corpus.compute(root, chunk)))
        now = time.monotonic()
        if now - drawn_s > 0.1:
            stage.update(len(findings))
            drawn_s = now
        if now - began_s > REFERENCE_S:
            break
    answer = json.loads(json.dumps(corpus.merge(findings)))
    elapsed_s = time.monotonic() - began_s
    stage.finish(len(findings), f"{len(findings) / elapsed_s:.1f}/s, {elapsed_s:.1f} s")
    return Work(root, [chunk for chunk, _ in findings], answer)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        os.write(1, (json.dumps(document(report)) + "\n").encode())
    else:
        Console().print(summary(report))
