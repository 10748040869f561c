"""An activity that leaves a process behind, as careless ones do."""

from __future__ import annotations

import subprocess

from flowherd import Registry

registry = Registry()


@registry.activity
def leave_an_orphan() -> None:
    """Starts a program that starts another one and does not wait for it."""
    subprocess.run(["/bin/sh", "-c", "sleep 1 &"], check=True)
