"""streaq: acknowledges late as it is; tasks of a worker that does not renew them are claimed by another."""

from __future__ import annotations

from streaq import Worker
from work import ASYNC, LEASE_S, URL

worker = Worker(redis_url=URL, **({"idle_timeout": LEASE_S} if LEASE_S else {}))
tasks = {name: worker.task(name=name)(work) for name, work in ASYNC.items()}


def opened():
    return worker


async def send(name: str, number: int, seconds: float) -> None:
    await tasks[name].enqueue(number, seconds)


if __name__ == "__main__":
    worker.run_sync()
