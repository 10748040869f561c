"""Makes before the fork what every worker would make after it: imports, a TLS context; no socket, loop or thread.

httpx and its backends imported in each child cost it 10 MB and 50 ms; inherited, they cost nothing.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util

from flowherd.telemetry.start import is_asked_for
from flowherd.transport.transport import new_client

_NEEDED_BY_EVERY_WORKER = ("anyio._backends._asyncio", "h11", "httpcore", "flowherd.process.build")
_PERHAPS = ("uvloop",)


def warm_up() -> None:
    """Imports, builds a client and drops it, and keeps the children's garbage collectors off all of that."""
    for name in _NEEDED_BY_EVERY_WORKER:
        importlib.import_module(name)
    for name in _PERHAPS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    if is_asked_for():
        importlib.import_module("flowherd.telemetry.provider")
    new_client("http://127.0.0.1", None, connections=1)  # never opened: nothing to close
    gc.collect()
    gc.freeze()
