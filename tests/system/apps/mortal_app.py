"""Activities whose process dies once; their costs and checkpoints must not be lost."""

from __future__ import annotations

import asyncio
import os
import signal

from flowherd import ActivityContext, Registry

registry = Registry()


def is_first(marker: str) -> bool:
    """True at the first call."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def append(path: str, line: object) -> None:
    """Appends one line with a single write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


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


@registry.activity
async def spend_twice(ctx: ActivityContext, trace: str) -> None:
    """Spends a cent at its start and one at its end, and leaves a line before and after each."""
    for pause_s in (0.15, 0.0):
        append(trace, "before")
        ctx.record_usage("anthropic", "m", output_tokens=1, cost_usd="0.01")
        append(trace, "after")
        await asyncio.sleep(pause_s)
