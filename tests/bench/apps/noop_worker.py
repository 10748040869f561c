"""An unchanged stock worker whose one activity does nothing; runs under `python` and under `flowherd run … :main`."""

from __future__ import annotations

import asyncio
from typing import Any

from kruxiaflow.worker import ActivityContext, ActivityResult, activity
from stock_program import program


@activity()
async def noop(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Does nothing."""
    return ActivityResult.value("result", 0)


main = program(noop)

if __name__ == "__main__":
    asyncio.run(main())
