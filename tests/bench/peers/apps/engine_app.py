"""Sends work to the engine, for the stock worker and for flowherd."""

from __future__ import annotations

from functools import cache

from work import URL

from flowherd_supervisor.testkit.workflow_client import Deployed, WorkflowClient, one_step

client = WorkflowClient(URL, ("bench", "bench-secret"))


@cache
def deployed(name: str) -> Deployed:
    return client.deploy(one_step(name, name, ["number", "seconds"], worker="py-std"))


def send(name: str, number: int, seconds: float) -> None:
    client.submit(deployed(name), {"number": number, "seconds": seconds})
