"""rq: a pool of two workers, forked from what has imported the app; a retry gives a killed job another attempt."""

from __future__ import annotations

from redis import Redis
from rq import Queue, Retry
from rq.worker_pool import WorkerPool
from work import SYNC, URL

connection = Redis.from_url(URL)
queue = Queue(connection=connection)


def send(name: str, number: int, seconds: float) -> None:
    queue.enqueue(SYNC[name], number, seconds, retry=Retry(max=3))


if __name__ == "__main__":
    WorkerPool([queue], connection=connection, num_workers=2).start(logging_level="WARNING")
