"""An app with its own start-up and clean-up, which each write a line to the file that JOURNAL names.

A named pipe in GATE holds up the start until its other end has been opened and closed.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd import ActivityContext, Registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def note(event: str) -> None:
    """Appends one line with a single write."""
    fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{event} {os.getpid()}\n".encode())
    os.close(fd)


def wait_at_the_gate() -> None:
    """Waits until the pipe has been opened and closed."""
    if gate := os.environ.get("GATE"):
        Path(gate).read_bytes()


@asynccontextmanager
async def lifespan() -> AsyncIterator[str]:
    """Creates one state per process."""
    if os.environ.get("REFUSE"):
        raise RuntimeError("no database here")
    wait_at_the_gate()
    note("entered")
    yield f"{os.environ['FLOWHERD_PROCESS_INDEX']} of {os.environ['FLOWHERD_PROCESSES']}, pid {os.getpid()}"
    note("left")


registry = Registry(lifespan=lifespan)


@registry.activity
async def look(ctx: ActivityContext) -> dict[str, object]:
    """Returns the state that the handler gets."""
    return {"state": ctx.state, "expected": f"{ctx.process_index} of 2, pid {os.getpid()}"}
