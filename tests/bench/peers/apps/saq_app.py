"""SAQ: a job that has neither ended in time nor sent a heartbeat is swept and retried."""

from __future__ import annotations

from contextlib import asynccontextmanager
from inspect import iscoroutinefunction

from saq import Queue
from work import ASYNC, LEASE_S, URL

queue = Queue.from_url(URL)
lease = {"heartbeat": int(LEASE_S), "timeout": 0} if LEASE_S else {}


def task(work):
    async def run(ctx, *, number: int, seconds: float) -> None:
        await work(number, seconds)

    def run_in_thread(ctx, *, number: int, seconds: float) -> None:
        work(number, seconds)

    return run if iscoroutinefunction(work) else run_in_thread


settings = {
    "queue": queue,
    "functions": [(name, task(work)) for name, work in ASYNC.items()],
    "timers": {"sweep": 1} if LEASE_S else {},
}


@asynccontextmanager
async def opened():
    await queue.connect()
    yield
    await queue.disconnect()


async def send(name: str, number: int, seconds: float) -> None:
    await queue.enqueue(name, number=number, seconds=seconds, retries=3, **lease)
