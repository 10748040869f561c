"""The path of an activity through our code: files, calls and changes of file for an `async def` that returns at once.

    python tests/bench/way.py [--activities 200] [--list]

One worker process without a supervisor (`python -m flowherd`'s parts, the direct transport) beside a stub engine, which
has the next activity ready when the one before is reported. From the beginning of one handler to that of the next
lies one report, one poll and one claim: a whole way. Counted on the worker's thread, after a warm-up: distinct files
of ours, calls of Python functions in them (a coroutine that goes on counts as one), and calls into another file than
the call before. Told are medians, also without what `client/` and `transport/` do; `--list` adds the files of a median
way in the order in which they are met.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench_kit import running_stub

import flowherd
from flowherd import Registry
from flowherd.ledger import Ledger, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.process.build_worker import BuiltWorker, WorkerPlace
from flowherd.settings.worker_config import WorkerConfig

if TYPE_CHECKING:
    from types import FrameType

    from bench_kit import Stub

WARM_UP = 50
OURS = str(Path(flowherd.__file__).parent) + "/"
WIRE = ("client/", "transport/")
POLLER = "worker/polling/poller.py"


class Way(NamedTuple):
    """The calls between two handlers, by file."""

    calls: list[str]

    @property
    def files(self) -> list[str]:
        """The files in the order of their first call, from the poll on."""
        first = self.calls.index(POLLER) if POLLER in self.calls else 0
        return list(dict.fromkeys(self.calls[first:] + self.calls[:first]))

    @property
    def changes(self) -> int:
        """Calls into another file than the call before; the last call is before the first."""
        return sum(a != b for a, b in zip(self.calls, self.calls[-1:] + self.calls[:-1], strict=True))


class Recorder:
    """Collects the calls of its thread; `mark` ends one way and begins the next."""

    def __init__(self) -> None:
        self.ways: list[Way] = []
        self._calls: list[str] = []

    def mark(self) -> None:
        """A handler begins."""
        self.ways.append(Way(self._calls))
        self._calls = []

    def saw(self, frame: FrameType, event: str, argument: object) -> None:
        """See `sys.setprofile`."""
        del argument
        if event == "call" and (name := frame.f_code.co_filename).startswith(OURS):
            self._calls.append(name.removeprefix(OURS))


async def walk(stub: Stub, count: int) -> list[Way]:
    """Records the paths of `count` activities, one at a time."""
    recorder, registry = Recorder(), Registry()

    @registry.activity
    async def noop(params: dict[str, object]) -> dict[str, int]:
        recorder.mark()
        return {"result": 0}

    config = WorkerConfig(api_url=stub.url, worker_id="way", concurrency=64, poll_max=100)
    ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
    segment = ledger.segments[0]
    segment.open(index=0, incarnation=1, now=time.monotonic())
    built = BuiltWorker(
        config,
        registry,
        ledger=ledger,
        segment=segment,
        wakeups=Wakeups(len(ledger.segments)),
        place=WorkerPlace(0),
        most_slots=config.concurrency,
    )
    working = asyncio.create_task(built.worker.run())
    sys.setprofile(recorder.saw)
    stub.tell("chain", steps=WARM_UP + count + 1)
    ended = partial(stub.tell, "wait", count=WARM_UP + count + 1)
    await asyncio.get_running_loop().run_in_executor(None, ended)
    sys.setprofile(None)
    built.worker.drain(1.0)
    await working
    await built.aclose()
    return recorder.ways[WARM_UP + 1 :]


def told(which: str, ways: list[Way]) -> str:
    """Returns one line with the three medians."""
    files = statistics.median(len(way.files) for way in ways)
    calls = statistics.median(len(way.calls) for way in ways)
    changes = statistics.median(way.changes for way in ways)
    return f"{which}: {files:g} files, {calls:g} calls, {changes:g} changes of file"


def main() -> int:
    """Records the paths and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=200)
    parser.add_argument("--list", action="store_true", help="the files of a median way, in order")
    options = parser.parse_args()
    with running_stub() as stub:
        ways = asyncio.run(walk(stub, options.activities))
    inner = [Way([name for name in way.calls if not name.startswith(WIRE)]) for way in ways]
    lines = [told("all", ways), told("without client and transport", inner)]
    if options.list:
        median = sorted(ways, key=lambda way: len(way.calls))[len(ways) // 2]
        lines += ["", *median.files]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
