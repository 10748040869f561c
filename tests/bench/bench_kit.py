"""Shared by the benches: flags, turns, a client of the stub, worker programs and their CPU."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench.sheet import RUST, STOCK, TUNED, Sheet
from harness import clean_environment, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).parent
APPS = HERE / "apps"
CREDENTIALS = {"KRUXIAFLOW_CLIENT_ID": "bench", "KRUXIAFLOW_CLIENT_SECRET": "bench-secret"}
LOGIN = tuple(CREDENTIALS.values())
CEILING_S = 200.0
STUB = "the stub, % of a core"  # an aside of the benches in which it could be the bottleneck
LIVES_S = 2.3  # an end within 2 s of Ready is a short one, and the next start waits
UVLOOP = (
    "import os, runpy, sys, uvloop; uvloop.install(); sys.path.insert(0, os.path.dirname(sys.argv[1])); "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)


def arguments(doc: str, *, repeat: int = 3, has_rust: bool = False) -> argparse.ArgumentParser:
    """Parses the flags of every bench; makes SIGTERM interrupt it, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--only", default="", metavar="PART", help="of the names of the contenders")
    parser.add_argument(
        "--tuned", metavar="PYTHON", help="of an environment with kruxiaflow, sniffio and uvloop"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    if has_rust:
        parser.add_argument("--rust", metavar="PROGRAM", help="built from apps/rust_worker")
    return parser


def in_turn(
    sheet: Sheet, options: argparse.Namespace, contenders: Mapping[str, Callable[[], Mapping[str, float]]]
) -> None:
    """Measures one after the other repeatedly, so that noise affects all; a failure ends only its own contender."""
    for _ in range(options.repeat):
        for who, measure in contenders.items():
            if options.only not in who or who in sheet.failed:
                continue
            try:
                sheet.note(who, measure())
            except KeyboardInterrupt:  # sent by a driver after too long: existing figures can be shown
                sheet.failed[who] = "interrupted"
                return
            except Exception as error:  # noqa: BLE001 - the other contenders are still of use
                sheet.failed[who] = f"{type(error).__name__}: {error}"


def run(
    sheet: Sheet, options: argparse.Namespace, contenders: Mapping[str, Callable[[], Mapping[str, float]]]
) -> int:
    """Measures all in turn and prints the sheet; returns the exit code of the program."""
    in_turn(sheet, options, contenders)
    return sheet.show(options.json)


def rivals(app: str, options: argparse.Namespace, sheet: Sheet) -> dict[str, tuple[str, ...]]:
    """Returns the command lines of the available rivals."""
    found = {STOCK: stock(app)}
    if options.tuned:
        found[TUNED] = stock(app, options.tuned, tuned=True)
    else:
        sheet.left_out[TUNED] = "no --tuned"
    if "rust" in options:
        if options.rust:
            found[RUST] = (options.rust,)
        else:
            sheet.left_out[RUST] = "no --rust"
    return found


class Stub:
    """A stub engine in a separate process."""

    def __init__(self, delay_ms: float = 0.0) -> None:
        words = [sys.executable, str(HERE / "stub_engine.py"), "--delay-ms", str(delay_ms)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self._http = httpx.Client(base_url=self.url, timeout=CEILING_S, trust_env=False)

    def tell(self, do: str, **order: Any) -> dict[str, Any]:
        """Sends an order and returns the report; `wait` replies when `count` outcomes have come."""
        return self._http.post("/stub", json={"do": do, **order}).raise_for_status().json()

    def wait_for_pollers(self, count: int, *roots: psutil.Process) -> None:
        """Waits until `count` worker processes have polled; raises if the program has ended."""

        def have_polled() -> bool:
            assert all(root.status() != psutil.STATUS_ZOMBIE for root in roots), "it has ended"
            return len(self.tell("look")["pollers"]) >= count

        eventually(have_polled, f"{count} pollers")

    def do(self, count: int, **order: Any) -> dict[str, Any]:
        """Runs `count` activities of one kind, with counters reset; returns the report at the end of the last."""
        self.tell("clear")
        self.tell("fill", count=count, **order)
        return self.tell("wait", count=count)

    def stop(self) -> None:
        """Ends the process."""
        self._http.close()
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running_stub(delay_ms: float = 0.0) -> Iterator[Stub]:
    """A stub engine for as long as the block lasts."""
    stub = Stub(delay_ms)
    try:
        yield stub
    finally:
        stub.stop()


def stock(app: str, python: str = sys.executable, *, tuned: bool = False) -> tuple[str, ...]:
    """Returns the stock worker's command line; `tuned` installs uvloop before it begins."""
    return (python, *(("-c", UVLOOP) if tuned else ()), str(APPS / f"{app}.py"))


def flowherd(app: str, *flags: str, log_level: str = "error") -> tuple[str, ...]:
    """Returns our command line for the same worker program, or for another app with its attribute."""
    target = app if ":" in app else f"{app}:main"
    words = (sys.executable, "-m", "flowherd_supervisor", "run", target, "--app-dir", str(APPS))
    return (*words, "--admin", "off", "--log-level", log_level, *flags)


@contextmanager
def running(
    words: tuple[str, ...], url: str, *, log: Path | None = None, **settings: str
) -> Iterator[psutil.Process]:
    """The worker program, for as long as the block lasts; settings are what follows `KRUXIAFLOW_`.

    What it says goes to `log`, or to a file of its own.

    Raises:
        RuntimeError: the block failed and the program had ended; with the last of what it said.

    """
    with tempfile.TemporaryDirectory() as runtime, open(log or Path(runtime) / "said", "w+b") as said:
        variables = {f"KRUXIAFLOW_{name}": value for name, value in settings.items()} | CREDENTIALS
        variables |= {"KRUXIAFLOW_API_URL": url, "KRUXIAFLOW_WORKER": "py-std", "XDG_RUNTIME_DIR": runtime}
        process = subprocess.Popen(words, env=clean_environment(**variables), stdout=said, stderr=said)
        try:
            yield psutil.Process(process.pid)
        except Exception as error:
            if process.poll() is None:
                raise
            said.seek(max(0, said.tell() - 500))
            last = " ".join(said.read().decode(errors="replace").split())
            raise RuntimeError(f"it ended with {process.returncode}: {last}") from error
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def slots(concurrency: int, batch: int) -> dict[str, str]:
    """Returns the settings of both workers for a number of slots and activities per poll."""
    return {
        "WORKER_MAX_ACTIVITIES": str(concurrency),
        "WORKER_POLL_MAX_ACTIVITIES": str(batch),
    }


def tree(root: psutil.Process) -> list[psutil.Process]:
    """Returns a process and its live descendants."""
    return [root, *root.children(recursive=True)]


def cpu_s(root: psutil.Process) -> float:
    """Returns the CPU seconds of a process and its live descendants.

    In nanoseconds, from the clock that clock_getcpuclockid(3) names for a process: /proc/PID/stat counts in 10 ms, and
    an idle process takes four of these in ten seconds.
    """
    return sum(time.clock_gettime(~process.pid << 3 | 2) for process in tree(root))


def quantile(values: list[float], share: float) -> float:
    """Returns the value that `share` of the sorted values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
