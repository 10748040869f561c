"""The activity that does nothing, written for flowherd."""

from __future__ import annotations

from flowherd import Registry

registry = Registry()


@registry.activity
async def noop(params: dict[str, object]) -> dict[str, int]:
    """Does nothing."""
    return {"result": 0}
