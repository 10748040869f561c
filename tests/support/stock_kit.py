"""Helpers for system tests that run the stock worker beside flowherd and compare reports."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from harness import CEILING_S, clean_environment, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREDENTIALS = ("a-client", "a-secret")
OVER = frozenset({"completed", "failed", "cancelled"})
_REPORT = re.compile(r"/api/v1/activities/([^/]+)/(complete|fail)")


class Wire:
    """A proxy in front of an engine that stores reports, since the engine keeps no error codes."""

    def __init__(self, engine_url: str) -> None:
        parts = urlsplit(engine_url)
        assert parts.hostname is not None
        assert parts.port is not None
        address = (parts.hostname, parts.port)
        self.failures: dict[str, list[dict[str, Any]]] = {}
        self.beats: list[str] = []

        class Handler(_Forward):
            engine = address
            wire = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def note(self, path: str, body: bytes) -> None:
        """Stores the relevant parts of one request."""
        if path.endswith("/heartbeat"):
            self.beats.append(path.split("/")[-2])
        found = _REPORT.fullmatch(path)
        if found and found[2] == "fail":
            self.failures.setdefault(found[1], []).append(json.loads(body)["error"])

    def close(self) -> None:
        """Stops forwarding."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(CEILING_S)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing when a stopping worker closes its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Forward(BaseHTTPRequestHandler):
    engine: tuple[str, int]
    wire: Wire
    protocol_version = "HTTP/1.1"
    timeout = CEILING_S  # an idle connection must not keep its thread

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.wire.note(self.path, body)
        connection = http.client.HTTPConnection(*self.engine, timeout=CEILING_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in {"transfer-encoding", "content-length", "connection", "server", "date"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _forward  # noqa: N815  # http.server names them so

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextlib.contextmanager
def wire_to(engine_url: str) -> Iterator[Wire]:
    """A wire that ends with the block."""
    wire = Wire(engine_url)
    try:
        yield wire
    finally:
        wire.close()


def stock_environment(url: str, worker: str) -> dict[str, str]:
    """Returns the variables that users of the stock SDK export."""
    return {
        "KRUXIAFLOW_API_URL": url,
        "KRUXIAFLOW_CLIENT_ID": CREDENTIALS[0],
        "KRUXIAFLOW_CLIENT_SECRET": CREDENTIALS[1],
        "KRUXIAFLOW_WORKER": worker,
    }


@contextlib.contextmanager
def stock_program(folder: Path, *words: str, url: str, worker: str) -> Iterator[Path]:
    """Runs `python …` with the stock manager as a separate process; yields its log, ends with the block."""
    log_path = folder / "stock.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=log,
            stderr=log,
            env=clean_environment(**stock_environment(url, worker)),
            cwd=folder,
        )
    try:
        yield log_path
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CEILING_S)
        process.kill()
        process.wait(CEILING_S)


@dataclass(frozen=True)
class Report:
    """The result of a workflow, without ids and times.

    Attributes:
        status: final status of the workflow.
        outputs: outputs of each activity, by key and name.
        errors: errors of activities, as the engine returns them.
        failures: code, message and retryability of each failure on the wire, in order.
        costs: cost of each activity, if all completed.
        files: the content behind each file reference among the outputs.

    """

    status: str
    outputs: dict[str, dict[str, Any]]
    errors: dict[str, str]
    failures: list[dict[str, Any]]
    costs: dict[str, str]
    files: dict[str, bytes] = field(default_factory=dict)


class Client:
    """Deploys, submits and reads workflows, as users' programs do."""

    def __init__(self, engine_url: str, wire: Wire) -> None:
        self._http = httpx.Client(base_url=f"{engine_url}/api/v1", timeout=CEILING_S, trust_env=False)
        form = {
            "grant_type": "client_credentials",
            "client_id": CREDENTIALS[0],
            "client_secret": CREDENTIALS[1],
        }
        token = self._http.post("/oauth/token", data=form).raise_for_status().json()["access_token"]
        self._http.headers["authorization"] = f"Bearer {token}"
        self._wire = wire

    def submit(self, name: str, steps: list[dict[str, Any]], worker: str) -> str:
        """Runs `steps` once on a worker type and returns the workflow's id."""
        activities = [{**step, "worker": worker} for step in steps]
        definition = {"name": f"{name}-{worker}", "activities": activities}
        self._http.post("/workflow_definitions", json=definition).raise_for_status()
        reply = self._http.post("/workflows", json={"definition_name": definition["name"], "input": {}})
        return str(reply.raise_for_status().json()["workflow_id"])

    def signal(self, workflow_id: str, key: str, data: Any) -> None:
        """Signals an activity as soon as it waits."""
        body = {"activity_key": key, "event_name": "go", "data": data}
        path = f"/workflows/{workflow_id}/signal"
        eventually(lambda: self._http.post(path, json=body).json()["signaled"], "a waiting activity")

    def report(self, workflow_id: str) -> Report:
        """Waits for the workflow's end and returns its report."""
        found = eventually(
            lambda: self._ended(workflow_id), f"the end of workflow {workflow_id}", within_s=30
        )
        outputs = {
            step["activity_key"]: {out["name"]: out["value"] for out in step["outputs"] or []}
            for step in found["activities"]
        }
        errors = {step["activity_key"]: step["error"] for step in found["activities"] if step["error"]}
        rows = self._http.get("/../../__test__/activities", params={"workflow_id": workflow_id})
        ids = [row["activity_id"] for row in rows.raise_for_status().json()["activities"]]
        failures = [failure for activity_id in ids for failure in self._wire.failures.get(activity_id, [])]
        return Report(
            status=found["status"],
            outputs=_anonymous(outputs, workflow_id),
            errors=_anonymous(errors, workflow_id),
            failures=_anonymous(failures, workflow_id),
            costs=self._costs(workflow_id) if found["status"] == "completed" else {},
            files={f"{key}/{name}": self._file(ref) for key, name, ref in _references(outputs)},
        )

    def _ended(self, workflow_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(f"/workflows/{workflow_id}").raise_for_status().json()
        return found if found["status"] in OVER else {}

    def _costs(self, workflow_id: str) -> dict[str, str]:
        found = self._http.get(f"/workflows/{workflow_id}/output").raise_for_status().json()
        return {key: output["cost_usd"] for key, output in found["outputs"].items()}

    def _file(self, reference: str) -> bytes:
        workflow_id, key, name = reference.removeprefix("postgres://").split("/", 2)
        path = f"/workflows/{workflow_id}/activities/{key}/files/{name}"
        return self._http.get(path).raise_for_status().content

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


def _anonymous(document: Any, workflow_id: str) -> Any:
    return json.loads(json.dumps(document).replace(workflow_id, "WORKFLOW"))


def _references(outputs: Any) -> list[tuple[str, str, str]]:
    """Yields every file reference among the outputs with the activity's key and a name for it."""
    pattern = re.compile(r'"(postgres://[0-9a-f-]{36}/[^"]*)"')
    return [
        (key, text.rpartition("/")[2], text)
        for key, values in outputs.items()
        for text in pattern.findall(json.dumps(values))
    ]
