"""A worker as the kruxiaflow SDK's own examples have it; nothing in it knows flowherd."""

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
async def count_primes(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Computes without ever giving the loop back."""
    ctx.logger.info("counting up to %s", params["below"])
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, params["below"]))
    return ActivityResult.value("primes", primes)


async def main() -> None:
    """Builds the registry and runs the worker."""
    config = WorkerConfig()  # fills itself from the environment
    registry = ActivityRegistry()
    registry.register(count_primes, config.worker)
    await WorkerManager(config, registry).run_until_shutdown()


if __name__ == "__main__":
    asyncio.run(main())
