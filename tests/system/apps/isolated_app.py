"""Activities that run in isolates, and do there what would cost a worker dear."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from flowherd import ActivityContext, Registry, SyncActivityContext

registry = Registry()
isolated = registry.activity(offload="process")


def note(folder: str, ctx: ActivityContext | SyncActivityContext, *more: int) -> None:
    """A file for each attempt, named for the activity and its process, that holds more pids."""
    path = Path(folder) / f"{ctx.activity_id}.{os.getpid()}"
    path.with_suffix(".new").write_text(" ".join(map(str, more)))
    path.with_suffix(".new").rename(path)


@isolated
async def greet(ctx: ActivityContext, name: str) -> dict[str, object]:
    print(f"greeting {name}")
    ctx.logger.info("greeted", extra={"whom": name})
    return {"greeting": f"hello {name}", "pid": os.getpid(), "process": ctx.process_index}


@isolated
def crash_once(ctx: SyncActivityContext, folder: str) -> dict[str, int]:
    """Takes its process down in the first attempt."""
    first = not list(Path(folder).glob(f"{ctx.activity_id}.*"))
    note(folder, ctx)
    if first:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"pid": os.getpid()}


@isolated
def hang(ctx: SyncActivityContext, folder: str) -> None:
    """Hears nothing, and neither does the program that it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    program = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(120)"])
    note(folder, ctx, program.pid)
    while True:
        threading.Event().wait(60)


@isolated
def hold(ctx: SyncActivityContext, folder: str) -> None:
    """Keeps the GIL for minutes in one call, and has started a program before."""
    program = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(120)"])
    note(folder, ctx, program.pid)
    re.match(r"(a+)+$", "a" * 40 + "b")


@isolated
def compute(ctx: SyncActivityContext, folder: str) -> None:
    """Holds the GIL until it is interrupted."""
    note(folder, ctx)
    while True:
        pass
