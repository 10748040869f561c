"""An app that does things at its import that do not survive a fork, as PRELOAD_DOES selects."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading

from flowherd import Registry

registry = Registry()
kept: list[object] = []
imported_by = os.getpid()
sys.stdout.write("importing\n")  # in one piece; a fork would copy it if it stayed in a buffer


def refresh() -> None:
    """Runs in a thread of the app."""
    threading.Event().wait()


match os.environ.get("PRELOAD_DOES"):
    case "thread":
        threading.Thread(target=refresh, name="pool-1", daemon=True).start()
    case "socket":
        kept += [listener := socket.create_server(("127.0.0.1", 0))]
        kept += [socket.create_connection(listener.getsockname())]
    case "reap":
        import signal

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    case _:
        pass


@registry.activity
async def where() -> dict[str, object]:
    """Returns the pids of the importing and of the running process."""
    return {"imported_by": imported_by, "pid": os.getpid(), "parent": os.getppid()}


@registry.activity
async def chance() -> dict[str, object]:
    """Returns a number from each generator that a fork could duplicate."""
    numpy = sys.modules.get("numpy")
    return {
        "pid": os.getpid(),
        "random": random.random(),
        "numpy": float(numpy.random.rand()) if numpy else None,
    }


if os.environ.get("PRELOAD_DOES") == "numpy":
    import numpy  # noqa: F401, ICN001
