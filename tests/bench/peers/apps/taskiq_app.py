"""taskiq: of its Redis brokers the one on streams is the one that acknowledges; heavy work in its pool of processes."""

from __future__ import annotations

from contextlib import asynccontextmanager

from taskiq_redis import RedisStreamBroker
from work import ASYNC, LEASE_S, URL

lease = {"idle_timeout": int(LEASE_S * 1000)} if LEASE_S else {}
broker = RedisStreamBroker(url=URL, unacknowledged_lock_timeout=5, **lease)
tasks = {name: broker.task(task_name=name)(work) for name, work in ASYNC.items()}


@asynccontextmanager
async def opened():
    await broker.startup()
    yield
    await broker.shutdown()


async def send(name: str, number: int, seconds: float) -> None:
    await tasks[name].kiq(number, seconds)
