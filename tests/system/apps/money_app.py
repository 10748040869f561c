"""Activities that spend money and then die; each attempt's part is told by the workflow's total."""

from __future__ import annotations

import os
import signal

from flowherd import ActivityContext, Registry

registry = Registry()


def is_first(marker: str) -> bool:
    """Whether nobody has been here before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


@registry.activity
async def spend(ctx: ActivityContext, marker: str) -> str:
    """Spends 25 cents and dies; the next attempt spends 10 cents and completes."""
    if is_first(marker):
        ctx.record_usage("anthropic", "m", input_tokens=10, cost_usd="0.20")
        ctx.record_cost("0.05")
        os.kill(os.getpid(), signal.SIGKILL)
    ctx.record_cost("0.10")
    return "spent"
