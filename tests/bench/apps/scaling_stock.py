"""The handler with a fixed amount of pure Python in a stock worker."""

from __future__ import annotations

import asyncio
from typing import Any

import rounds
from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program


@activity()
async def work(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """So many rounds."""
    return ActivityResult.value("result", rounds.work(params["rounds"]))


main = program(work)

if __name__ == "__main__":
    asyncio.run(main())
