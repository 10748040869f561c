"""A handler that blocks the loop, of which only one may run at a time."""

from __future__ import annotations

import os
import time

from flowherd import Registry

registry = Registry()


@registry.activity(max_concurrent=1)
async def blocks() -> dict[str, int]:
    time.sleep(0.3)  # noqa: ASYNC251 - that is the mistake
    return {"pid": os.getpid()}
