"""procrastinate: jobs of workers without heartbeats are retried by a periodic task, as its documentation has it."""

from __future__ import annotations

import procrastinate
from work import ASYNC, LEASE_S, URL

lease = {"update_heartbeat_interval": 1, "stalled_worker_timeout": LEASE_S} if LEASE_S else {}
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL), worker_defaults=lease)
tasks = {name: app.task(name=name)(work) for name, work in ASYNC.items()}
opened = app.open_async


@app.periodic(cron="* * * * * */2" if LEASE_S else "*/10 * * * *")
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context, timestamp):
    known = {"seconds_since_heartbeat": LEASE_S} if LEASE_S else {}
    for job in await app.job_manager.get_stalled_jobs(**known):
        await app.job_manager.retry_job(job)


async def send(name: str, number: int, seconds: float) -> None:
    await tasks[name].defer_async(number=number, seconds=seconds)
