"""Handlers that block the loop, of which nobody has said so, and one of which somebody has said that it may."""

from __future__ import annotations

import asyncio
import os
import time

from flowherd import Registry

registry = Registry()


@registry.activity
async def light() -> dict[str, int]:
    await asyncio.sleep(0.01)
    return {"pid": os.getpid()}


@registry.activity
async def blocks(seconds: float = 0.3, text: str = "") -> dict[str, object]:
    time.sleep(seconds)  # noqa: ASYNC251 - that is the mistake
    return {"pid": os.getpid(), "text": text}


@registry.activity(offload="loop")
async def stays(seconds: float = 0.3) -> dict[str, int]:
    time.sleep(seconds)  # noqa: ASYNC251 - its author knows
    return {"pid": os.getpid()}
