"""Time until the work of a killed worker is requeued, and until another worker is ready.

    python tests/bench/crash_requeue.py [--kills 20] [--lease 60] [--repeat 1] [--json FILE] [--tuned PYTHON]
                                        [--only PART]

`kill -9` of a process that holds one activity, on a host with 2 processes, again and again; beside it a stock worker,
once: nobody hands its work back, so that the lease has to end. *Handed back* is when the engine has it again, by its
own journal; *started again* is when a worker has it, which takes the engine's retry delay of 2 s too; *ready* is when
the log has a process in the place of the killed one. Needs `kruxiaflow`.

The last row kills a process that runs one activity and holds others, which wait for their turn: another process adopts
these. *Waiting one completed* is when the engine has the outcome of the first of them, a handler that does nothing.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_kit import APPS, CREDENTIALS, LIVES_S, LOGIN, arguments, quantile, rivals, run, running
from harness import CEILING_S, Engine, Host, eventually, running_engine, running_host
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse

APP = "blocking_worker"
OURS = "flowherd -p 2"
WAITING = "flowherd -p 2, others wait"
BACK, READY, AGAIN = "killed to handed back", "killed to replacement ready", "killed to started again"
DONE = "killed to waiting one completed"
HELD_S = 3600
WAIT = 8  # others that wait, of which some are in the process that is killed
ONE_AT_A_TIME = "[activities.wait]\nmax_concurrent = 1\n"


def of(what: str, quantile: str) -> str:
    """The name of a figure."""
    return f"{what}, {quantile} ms"


GATES = [
    Gate(of(BACK, "p50"), OURS, "<=", 200),
    Gate(of(BACK, "max"), OURS, "<=", 1000),
    Gate(of(READY, "max"), OURS, "<=", 1000),
    Gate(of(DONE, "p99"), WAITING, "<=", 100),
]


def claimed(engine: Engine, max_attempts: int = 20) -> dict[str, Any]:
    """Waits for the first claim of a new activity that never ends."""
    before = engine.claims_per_activity()
    engine.submit("wait", 1, settings={"retry": {"max_attempts": max_attempts}}, seconds=HELD_S)

    def fresh() -> list[dict[str, Any]]:
        return [entry for entry in engine.entries("claim") if entry["activity_id"] not in before]

    return eventually(fresh, "a claim of the new activity")[0]


def seen_ms(engine: Engine, event: str, claim: dict[str, Any], within_s: float) -> float:
    """Returns the milliseconds from the claim to this event of the activity, by the engine's clock."""

    def later() -> list[float]:
        return [
            entry["at_s"]
            for entry in engine.entries(event)
            if entry["activity_id"] == claim["activity_id"] and entry["seq"] > claim["seq"]
        ]

    return eventually(later, f"{event} of it", within_s)[0] * 1e3


def hosted(options: argparse.Namespace) -> dict[str, float]:
    """Many kills on one host."""
    found: dict[str, list[float]] = {BACK: [], READY: [], AGAIN: []}
    flags = ("-p", "2", "--poison-after", "0", "--graceful-timeout", "1")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_engine("--default-lease", str(options.lease), credentials=LOGIN) as engine,
        running_host(
            Path(folder), f"{APP}:main", *flags, url=engine.url, app_dir=APPS, env=CREDENTIALS
        ) as host,
    ):
        host.ready(2)
        for _ in range(options.kills):
            threading.Event().wait(LIVES_S)
            for what, took_ms in kill(engine, host).items():
                found[what].append(took_ms)
    medians = {of(what, "p50"): statistics.median(took_ms) for what, took_ms in found.items()}
    return medians | {of(what, "max"): max(took_ms) for what, took_ms in found.items()}


def kill(engine: Engine, host: Host) -> dict[str, float]:
    """Kills the process that holds a new activity."""
    claim = claimed(engine)
    readies = len(host.log("process_ready"))
    killed_ms = time.time() * 1e3
    os.kill(process_of(host, claim), signal.SIGKILL)
    back_ms = seen_ms(engine, "fail", claim, CEILING_S)
    again_ms = seen_ms(engine, "claim", claim, CEILING_S)
    ready = host.wait_for_log("process_ready", readies + 1)[readies]
    ready_ms = datetime.fromisoformat(ready["time"]).timestamp() * 1e3
    return {BACK: back_ms - killed_ms, READY: ready_ms - killed_ms, AGAIN: again_ms - killed_ms}


def adopted(options: argparse.Namespace) -> dict[str, float]:
    """Many kills on one host, of a process in which others wait."""
    flags = ("-p", "2", "-c", "24", "--poison-after", "0", "--graceful-timeout", "1")
    took_ms: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_engine("--default-lease", str(options.lease), credentials=LOGIN) as engine,
    ):
        settings = Path(folder) / "one_at_a_time.toml"
        settings.write_text(ONE_AT_A_TIME)
        words = (f"{APP}:main", "--config", str(settings), *flags)
        with running_host(Path(folder), *words, url=engine.url, app_dir=APPS, env=CREDENTIALS) as host:
            host.ready(2)
            while len(took_ms) < options.kills:
                threading.Event().wait(LIVES_S)
                took_ms += kill_beside_others(engine, host)
    return {of(DONE, "p50"): statistics.median(took_ms), of(DONE, "p99"): quantile(took_ms, 0.99)}


def kill_beside_others(engine: Engine, host: Host) -> list[float]:
    """Kills the process that runs an activity with one attempt; nothing when all that wait are in the other process."""
    running_one = claimed(engine, max_attempts=1)
    before = engine.claims_per_activity()
    engine.submit("wait", WAIT, seconds=0)

    def claims() -> dict[str, dict[str, Any]]:
        found = [entry for entry in engine.entries("claim") if entry["activity_id"] not in before]
        return {entry["activity_id"]: entry for entry in found} if len(found) == WAIT else {}

    def ends_ms() -> dict[str, float]:
        found = [entry for entry in engine.entries("complete") if entry["activity_id"] in waiting]
        return {entry["activity_id"]: entry["at_s"] * 1e3 for entry in found} if len(found) == WAIT else {}

    waiting = eventually(claims, "claims of those that wait")
    eventually(
        lambda: host.status()["totals"]["claimed"] == len(engine.entries("claim")), "the host has them"
    )
    pid = process_of(host, running_one)
    beside = [one for one, claim in waiting.items() if process_of(host, claim) == pid]
    killed_ms = time.time() * 1e3
    os.kill(pid, signal.SIGKILL)
    ended_ms = eventually(ends_ms, "their ends")
    return [min(ended_ms[one] for one in beside) - killed_ms] if beside else []


def process_of(host: Host, claim: dict[str, Any]) -> int:
    """The pid of the process that has claimed it."""
    return next(pid for pid in host.children().values() if f"-{pid}-" in claim["worker_id"])


def alone(words: tuple[str, ...], lease_s: float) -> dict[str, float]:
    """Kills a worker without a supervisor once."""
    flags = ("--default-lease", str(lease_s), "--sweep-interval", "1")
    with running_engine(*flags, credentials=LOGIN) as engine, running(words, engine.url) as root:
        claim = claimed(engine)
        killed_ms = time.time() * 1e3
        root.kill()
        back_ms = seen_ms(engine, "lapse", claim, lease_s + CEILING_S)
    return {of(BACK, "p50"): back_ms - killed_ms, of(BACK, "max"): back_ms - killed_ms}


def main() -> int:
    """Kills them in turn, `--repeat` times."""
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--lease", type=float, default=60.0)
    options = parser.parse_args()
    sheet = Sheet("crash", f"{options.kills} kills, a lease of {options.lease:g} s", GATES)
    contenders = {
        who: partial(alone, words, options.lease) for who, words in rivals(APP, options, sheet).items()
    }
    return run(
        sheet, options, contenders | {OURS: partial(hosted, options), WAITING: partial(adopted, options)}
    )


if __name__ == "__main__":
    sys.exit(main())
