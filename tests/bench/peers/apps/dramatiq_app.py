"""dramatiq: acknowledges late as it is; messages of a process without heartbeats go back at a maintenance."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from work import LEASE_S, SYNC, URL

lease = {"heartbeat_timeout": int(LEASE_S * 1000), "maintenance_chance": 1_000_000} if LEASE_S else {}
dramatiq.set_broker(RedisBroker(url=URL, **lease))
tasks = {name: dramatiq.actor(actor_name=name)(work) for name, work in SYNC.items()}


def send(name: str, number: int, seconds: float) -> None:
    tasks[name].send(number, seconds)
