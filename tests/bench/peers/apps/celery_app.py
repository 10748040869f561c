"""Celery: late acknowledgement, and a task goes back when its child process is lost."""

from __future__ import annotations

from celery import Celery
from work import LEASE_S, SYNC, URL

app = Celery("peers", broker=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_transport_options={"visibility_timeout": LEASE_S, "unacked_restore_throttle": 1}
    if LEASE_S
    else {},
)
for name, work in SYNC.items():
    app.task(name=name)(work)


def send(name: str, number: int, seconds: float) -> None:
    app.send_task(name, (number, seconds))
