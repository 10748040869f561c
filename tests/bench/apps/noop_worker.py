"""An unchanged stock worker whose one activity does nothing; runs under `python` and under `flowherd run … :main`."""

from __future__ import annotations

import asyncio
from typing import Any

from kruxiaflow.worker import (
    ActivityContext,
    ActivityRegistry,
    ActivityResult,
    WorkerConfig,
    WorkerManager,
    activity,
)


@activity()
async def noop(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Does nothing."""
    return ActivityResult.value("result", 0)


async def main() -> None:
    """The shape of every stock example."""
    registry = ActivityRegistry()
    registry.register(noop, "py-std")
    await WorkerManager(WorkerConfig(), registry).run_until_shutdown()


if __name__ == "__main__":
    asyncio.run(main())
