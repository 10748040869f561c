"""What demo and bench ask over HTTP: their own engine and supervisor; it talks to nobody else."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

WORKER = "flowherd-demo"
STEP = "work"
_PAGE = 1000  # protocol.md §13: at most
LEASE_S = 10  # what was claimed by a process killed in that very moment comes back after it (faults.md C2)
# A kill costs an attempt: far more than `--chaos` can spend on one activity.
_SETTINGS = {
    "timeout_seconds": LEASE_S,
    "retry": {"max_attempts": 20, "strategy": "fixed", "base_seconds": 1},
}


@dataclass(frozen=True)
class Child:
    """One row of the status document (interface.md, Outputs)."""

    process: int
    pid: int
    phase: str
    completed: int
    cpu_percent: float
    restarts: int


@dataclass(frozen=True)
class Status:
    """What the demo reads of the status document."""

    pid: int
    ready: int
    completed: int
    children: tuple[Child, ...]


class _Client:
    """One connection that is kept: making a client costs more CPU than fifty calls."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


class StatusSocket(_Client):
    """The supervisor's status on its unix socket (interface.md, Admin)."""

    def __init__(self, path: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(path))
        super().__init__(httpx.Client(base_url="http://supervisor", transport=transport, timeout=1.0))

    def read(self) -> Status | None:
        """Return the status, or None while nobody answers: nothing but the picture needs it."""
        with contextlib.suppress(httpx.HTTPError):
            reply = self._client.get("/api/status")
            if reply.is_success:
                return decode_status(reply.json())
        return None


class EngineApi(_Client):
    """The engine's workflow API for one-step definitions (protocol.md §11 to §13)."""

    def __init__(self, url: str) -> None:
        super().__init__(httpx.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=30.0))

    def deploy(self, name: str, activity: str, parameters: tuple[str, ...], worker: str = WORKER) -> str:
        """Deploy the one-step definition of an activity and return its version."""
        step = {
            "key": STEP,
            "worker": worker,
            "activity_name": activity,
            "parameters": {key: f"{{{{INPUT.{key}}}}}" for key in parameters},
            "settings": _SETTINGS,
        }
        definition = {"name": name, "activities": [step]}
        return str(self._json("POST", "/workflow_definitions", definition)["version"])

    def submit(self, name: str, version: str, parameters: Mapping[str, Any]) -> str:
        """Queue one activity and return the id of its workflow."""
        body = {"definition_name": name, "version": version, "input": parameters}
        return str(self._json("POST", "/workflows", body)["workflow_id"])

    def total(self, status: str) -> int:
        """Return how many workflows have this status: one small reply, whatever their number."""
        return int(self._json("GET", f"/workflows?status={status}&limit=1")["total"])

    def ended_at(self) -> list[float]:
        """Return when each completed workflow was last changed, in the engine's own seconds."""
        times: list[float] = []
        while True:
            page = self._json("GET", f"/workflows?status=completed&limit={_PAGE}&offset={len(times)}")
            times += [datetime.fromisoformat(row["updated_at"]).timestamp() for row in page["workflows"]]
            if len(page["workflows"]) < _PAGE:
                return times

    def output(self, workflow: str) -> dict[str, Any] | None:
        """Return what the activity of a workflow put out, or None while or because there is nothing."""
        steps = self._json("GET", f"/workflows/{workflow}")["activities"]
        outputs = next((step["outputs"] for step in steps if step["activity_key"] == STEP), None)
        return None if outputs is None else {each["name"]: each["value"] for each in outputs}

    def status(self, workflow: str) -> str:
        """Return the status of one workflow."""
        return str(self._json("GET", f"/workflows/{workflow}")["status"])

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        return self._client.request(method, path, json=body).raise_for_status().json()


def decode_status(document: Mapping[str, Any]) -> Status:
    """Read a status document; a process that overlaps its own successor is one row, the newer incarnation."""
    rows = sorted(document["children"], key=lambda row: (row["process"], row["incarnation"]))
    return Status(
        pid=document["pid"],
        ready=document["processes"]["ready"],
        completed=document["totals"]["completed"],
        children=tuple({row["process"]: _child(row) for row in rows}.values()),
    )


def _child(row: Mapping[str, Any]) -> Child:
    return Child(
        process=row["process"],
        pid=row["pid"],
        phase=row["phase"],
        completed=row["completed"],
        cpu_percent=row["cpu_percent"] or 0.0,
        restarts=row["restarts"],
    )
