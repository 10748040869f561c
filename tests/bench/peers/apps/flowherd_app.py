"""flowherd: heavy work in isolates."""

from __future__ import annotations

from work import ASYNC

from flowherd import Registry

registry = Registry()
for name, work in ASYNC.items():
    registry.activity(name=name, offload="process" if name == "heavy" else None)(work)
