"""An app whose worker processes end a second after they have begun, with nothing running."""

from __future__ import annotations

import os
import signal

from flowherd import Registry

registry = Registry()


def arm() -> None:
    """Schedules the end by SIGALRM, without a thread."""
    signal.setitimer(signal.ITIMER_REAL, 1.0)


if "FLOWHERD_PROCESS_INDEX" in os.environ:
    arm()
os.register_at_fork(after_in_child=arm)


@registry.activity
async def nothing() -> None:
    """Never runs."""
