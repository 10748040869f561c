"""Activities that run in isolates and do things that would harm a worker."""

from __future__ import annotations

import fcntl
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
    """Writes a file for each attempt, named after the activity and its process, with further pids."""
    path = Path(folder) / f"{ctx.activity_id}.{os.getpid()}"
    path.with_suffix(".new").write_text(" ".join(map(str, more)))
    path.with_suffix(".new").rename(path)


@isolated
async def greet(ctx: ActivityContext, name: str) -> dict[str, object]:
    print(f"greeting {name}")
    ctx.logger.info("greeted", extra={"whom": name})
    return {"greeting": f"hello {name}", "pid": os.getpid(), "process": ctx.process_index}


@isolated
def keep(ctx: SyncActivityContext, folder: str) -> dict[str, object]:
    """Uploads and downloads a file and stores checkpoints."""
    made = Path(folder) / "made.txt"
    made.write_text("kept")
    fetched = ctx.download_file(ctx.upload_file(made, "made.txt"))
    ctx.checkpoint({"step": 1})
    return {"text": fetched.read_text(), "folder": str(fetched.parent), "resumed": ctx.resume()}


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
    """Ignores signals, as does the program that it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    program = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(120)"])
    note(folder, ctx, program.pid)
    while True:
        threading.Event().wait(60)


@isolated
def hold(ctx: SyncActivityContext, folder: str) -> None:
    """Starts a program, then holds the GIL for minutes in one call."""
    program = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait(120)"])
    note(folder, ctx, program.pid)
    re.match(r"(a+)+$", "a" * 40 + "b")


@isolated
def exclusive(ctx: SyncActivityContext, folder: str) -> None:
    """Notes each start, and if another attempt was still running then."""
    with Path(folder, "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Path(folder, f"overlap.{os.getpid()}").touch()
        note(folder, ctx)
        threading.Event().wait(0.5)


@isolated
def compute(ctx: SyncActivityContext, folder: str) -> None:
    """Holds the GIL until it is interrupted."""
    note(folder, ctx)
    while True:
        pass
