"""The handler with a fixed amount of pure Python in a stock worker."""

from __future__ import annotations

import asyncio
from typing import Any

import rounds
from kruxiaflow.worker import (
    ActivityContext,
    ActivityRegistry,
    ActivityResult,
    WorkerConfig,
    WorkerManager,
    activity,
)


@activity()
async def work(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """So many rounds."""
    return ActivityResult.value("result", rounds.work(params["rounds"]))


async def main() -> None:
    """The shape of every stock example."""
    registry = ActivityRegistry()
    registry.register(work, "py-std")
    await WorkerManager(WorkerConfig(), registry).run_until_shutdown()


if __name__ == "__main__":
    asyncio.run(main())
