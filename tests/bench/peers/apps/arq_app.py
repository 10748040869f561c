"""arq: acknowledges late as it is; heavy work in a pool of processes, as its documentation has it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction

from arq import create_pool, func, run_worker
from arq.connections import RedisSettings
from work import ASYNC, LEASE_S, URL

SETTINGS = RedisSettings.from_dsn(URL)
pool = None


def task(work):
    async def run(ctx, number: int, seconds: float) -> None:
        if iscoroutinefunction(work):
            await work(number, seconds)
        else:
            await asyncio.get_running_loop().run_in_executor(ctx["pool"], work, number, seconds)

    return run


class WorkerSettings:
    functions = tuple(func(task(work), name=name) for name, work in ASYNC.items())
    redis_settings = SETTINGS
    job_timeout = LEASE_S or 300

    @staticmethod
    async def on_startup(ctx) -> None:
        ctx["pool"] = ProcessPoolExecutor(1)


@asynccontextmanager
async def opened():
    global pool  # noqa: PLW0603
    pool = await create_pool(SETTINGS)
    yield
    await pool.aclose()


async def send(name: str, number: int, seconds: float) -> None:
    await pool.enqueue_job(name, number, seconds)


if __name__ == "__main__":
    run_worker(WorkerSettings)
