"""Activities whose process dies once: what they had spent, and how far they had come, must not be lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from flowherd import ActivityContext, Registry

registry = Registry()


def is_first(marker: str) -> bool:
    """Whether nobody has been here before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def append(path: str, step: int) -> None:
    """A step was done."""
    with Path(path).open("a") as file:
        file.write(f"{step}\n")


@registry.activity
async def spend(ctx: ActivityContext, marker: str) -> str:
    """Spends 25 cents and dies; the next attempt spends 10 cents and completes."""
    if is_first(marker):
        ctx.record_usage("anthropic", "m", input_tokens=10, cost_usd="0.20")
        ctx.record_cost("0.05")
        os.kill(os.getpid(), signal.SIGKILL)
    ctx.record_cost("0.10")
    return "spent"


@registry.activity
async def in_steps(ctx: ActivityContext, marker: str, trace: str) -> dict[str, object]:
    """Does three steps, each kept; its process dies after the second."""
    done: list[int] = await ctx.resume() or []
    for step in range(len(done), 3):
        append(trace, step)
        done.append(step)
        await ctx.checkpoint(done)
        if step == 1 and is_first(marker):
            os.kill(os.getpid(), signal.SIGKILL)
    return {"done": done}
