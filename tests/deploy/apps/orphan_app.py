"""Activities for a process 1: one leaves a process behind, as careless ones do, one outlasts a stop."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flowherd import Registry

registry = Registry()


@registry.activity
def leave_an_orphan() -> None:
    """Starts a program that starts another one and does not wait for it."""
    subprocess.run(["/bin/sh", "-c", "sleep 600 &"], check=True)


@registry.activity
def hear(pipe: str) -> str:
    """Goes on until something is said into the named pipe, and returns it."""
    return Path(pipe).read_text()
