"""The gain of threads with a released GIL and with a held one, and the cost of waiting handlers.

    python tests/bench/thread_offload.py [--batches 9] [--batch 60] [--waits 400] [--repeat 1]
                                         [--json FILE] [--tuned PYTHON]

One unchanged stock worker program everywhere. Its `async def` activities are moved to threads by the settings file
alone: 50 ms of NumPy that gives the GIL up, and 50 ms of pure Python, on one process with one slot and with two. The
four take turns, batch after batch, so that what else the machine does meets all of them; the gain is that of the
shortest batches, which were disturbed least. "CPUs wanted" is what the kernel says of the worker's threads, running or
ready to run, for each second of all batches. "Bare" is the same NumPy in threads of this program, without any worker:
what the machine has to give at this moment. Then 400 waits of half a second on 16 slots, for the stock worker and for
flowherd with one and four processes, at the same time; 12.5 s is ideal. All times are the engine's: from the first
claim to the last accepted completion. Needs `kruxiaflow` and `numpy`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bench_kit import LOGIN, arguments, flowherd, rivals, running, slots, tree
from harness import Engine, running_engine
from sheet import Sheet

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import psutil

APP = "offload_worker"
NUMBERS = np.random.default_rng(7).random(1_000_000)
SLOTS, WAIT_S = 16, 0.5
KINDS, COUNTS = ("numbers", "python"), (1, 2)
IN_THREADS = "".join(f'[activities.{kind}]\noffload = "thread"\n' for kind in KINDS)
CEILING_S = 120.0
TOOK, WANTED = "a batch, s", "CPUs wanted"
GAIN, IDEAL = "one thread's time / two's, shortest", "waits, of the ideal time"


@dataclass
class Contender:
    """A running worker and its engine.

    Attributes:
        wanted_s: seconds that its threads ran or were ready to run, over all batches.
        batches_s: how long these took.

    """

    engine: Engine
    root: psutil.Process
    accepted: int = 0
    wanted_s: float = 0.0
    batches_s: float = 0.0

    def batch_s(self, activity: str, count: int) -> float:
        """Seconds of one batch."""
        wanted_before = wanted_s(self.root)
        seconds = self.took_s(activity, count)
        self.wanted_s += wanted_s(self.root) - wanted_before
        self.batches_s += seconds
        return seconds

    def took_s(self, activity: str, count: int) -> float:
        """Returns the seconds from the first claim to the last completion of `count` activities."""
        claimed = len(self.engine.entries("claim"))
        self.engine.submit(activity, count)
        self.accepted += count
        ended = self.engine.wait_for("complete", self.accepted, within_s=CEILING_S)
        begun_at = min(entry["at_s"] for entry in self.engine.entries("claim")[claimed:])
        return max(entry["at_s"] for entry in ended[-count:]) - begun_at


def wanted_s(root: psutil.Process) -> float:
    """Returns the seconds that all threads of a worker program ran or waited for a CPU."""
    stats = [
        path.read_text().split()
        for process in tree(root)
        for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    ]
    return sum(int(ran) + int(queued) for ran, queued, _ in stats) / 1e9


@contextmanager
def contending(words: tuple[str, ...], activity: str, concurrency: int) -> Iterator[Contender]:
    """Runs the worker for the block; it has already run one activity."""
    with (
        running_engine(credentials=LOGIN) as engine,
        running(words, engine.url, **slots(concurrency, 10)) as root,
    ):
        contender = Contender(engine, root)
        contender.took_s(activity, 1)
        yield contender


def bare_s(count: int, batch: int) -> float:
    """Measures one batch of the same NumPy work in `count` threads, without a worker."""
    results = [np.empty_like(NUMBERS) for _ in range(count)]

    def compute(found: np.ndarray) -> None:
        for _ in range(4 * batch // count):
            np.sin(NUMBERS, out=found)

    crew = [threading.Thread(target=compute, args=(found,)) for found in results]
    begun_at = time.perf_counter()
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    return time.perf_counter() - begun_at


def name(kind: str, count: int) -> str:
    """Of a contender."""
    return f"{kind}, {count} thread{'s' * (count > 1)}"


def offloaded(settings: str, options: argparse.Namespace, sheet: Sheet) -> None:
    """Notes each batch on one process with one thread and with two, the CPUs wanted meanwhile, and the gains."""
    took: dict[str, list[float]] = {}
    with ExitStack() as stack:
        rows = {
            name(kind, count): (kind, stack.enter_context(contending(
                flowherd(APP, "-p", "1", "-c", str(count), "--config", settings), kind, count
            )))
            for kind in KINDS
            for count in COUNTS
        }  # fmt: skip
        for _ in range(options.batches):
            for count in COUNTS:
                took.setdefault(name("bare numpy", count), []).append(bare_s(count, options.batch))
            for who, (kind, contender) in rows.items():
                took.setdefault(who, []).append(contender.batch_s(kind, options.batch))
        for who, batches_s in took.items():
            for seconds in batches_s:
                sheet.note(who, {TOOK: seconds})
        for who, (_, contender) in rows.items():
            sheet.note(who, {WANTED: contender.wanted_s / contender.batches_s})
    for kind in ("bare numpy", *KINDS):
        sheet.note(name(kind, 2), {GAIN: min(took[name(kind, 1)]) / min(took[name(kind, 2)])})


def waits(programs: dict[str, tuple[str, ...]], count: int, sheet: Sheet) -> None:
    """Notes the time of all waits, for each that contends at the same time."""
    with ExitStack() as stack, ThreadPoolExecutor(len(programs)) as pool:
        contenders = [stack.enter_context(contending(words, "wait", SLOTS)) for words in programs.values()]
        for who, seconds in zip(
            programs, pool.map(lambda one: one.took_s("wait", count), contenders), strict=True
        ):
            sheet.note(who, {IDEAL: seconds / (count / SLOTS * WAIT_S)})


def measure(options: argparse.Namespace, sheet: Sheet) -> None:
    """All of it, once."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "flowherd.toml"
        settings.write_text(IN_THREADS)
        offloaded(str(settings), options, sheet)
    ours = {f"flowherd -p {processes}": flowherd(APP, "-p", str(processes)) for processes in (1, 4)}
    waits(rivals(APP, options, sheet) | ours, options.waits, sheet)


def main() -> int:
    """Measures all, `--repeat` times."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--batches", type=int, default=9)
    parser.add_argument("--batch", type=int, default=60, help="so that its submission weighs little")
    parser.add_argument("--waits", type=int, default=400)
    options = parser.parse_args()
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    about = (
        f"{options.batches} batches of {options.batch}, 50 ms each; {options.waits} waits on {SLOTS} slots"
    )
    sheet = Sheet("threads", about)
    for _ in range(options.repeat):
        measure(options, sheet)
    return sheet.show(options.json)


if __name__ == "__main__":
    sys.exit(main())
