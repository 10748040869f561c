"""What the benches share: the stub engine's other end, worker programs, their CPU and memory; it measures nothing."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from harness import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
APPS = HERE / "apps"
CREDENTIALS = {"KRUXIAFLOW_CLIENT_ID": "bench", "KRUXIAFLOW_CLIENT_SECRET": "bench-secret"}
CEILING_S = 900.0
UVLOOP = "import runpy, sys, uvloop; uvloop.install(); runpy.run_path(sys.argv[1], run_name='__main__')"


class Stub:
    """A stub engine in a process of its own."""

    def __init__(self, delay_ms: float = 0.0) -> None:
        words = [sys.executable, str(HERE / "stub_engine.py"), "--delay-ms", str(delay_ms)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self._http = httpx.Client(base_url=self.url, timeout=CEILING_S, trust_env=False)

    def tell(self, do: str, **order: Any) -> dict[str, Any]:
        """Gives an order and returns the report; `wait` answers when `count` outcomes have come."""
        return self._http.post("/stub", json={"do": do, **order}).raise_for_status().json()

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
    """The stock worker's command line; `tuned` installs uvloop before it begins."""
    return (python, *(("-c", UVLOOP) if tuned else ()), str(APPS / f"{app}.py"))


def flowherd(app: str, *flags: str) -> tuple[str, ...]:
    """Our command line for the same worker program, or for another app if it is named with its attribute."""
    target = app if ":" in app else f"{app}:main"
    words = (sys.executable, "-m", "flowherd_supervisor", "run", target, "--app-dir", str(APPS))
    return (*words, "--admin", "off", "--log-level", "error", *flags)


@contextmanager
def running(words: tuple[str, ...], url: str, **settings: str) -> Iterator[psutil.Process]:
    """The worker program, for as long as the block lasts; settings are what follows `KRUXIAFLOW_`."""
    with tempfile.TemporaryDirectory() as runtime, open(os.devnull, "wb") as null:
        variables = {f"KRUXIAFLOW_{name}": value for name, value in settings.items()} | CREDENTIALS
        variables |= {"KRUXIAFLOW_API_URL": url, "KRUXIAFLOW_WORKER": "py-std", "XDG_RUNTIME_DIR": runtime}
        process = subprocess.Popen(words, env=clean_environment(**variables), stdout=null, stderr=null)
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def slots(concurrency: int, batch: int) -> dict[str, str]:
    """The settings of both workers for so many activities at once, so many a poll."""
    return {
        "WORKER_MAX_ACTIVITIES": str(concurrency),
        "WORKER_POLL_MAX_ACTIVITIES": str(batch),
    }


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and its living descendants."""
    return [root, *root.children(recursive=True)]


def cpu_s(root: psutil.Process) -> float:
    """User and system seconds of a process and its living descendants."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in tree(root)))


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}
