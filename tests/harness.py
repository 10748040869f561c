"""Real programs for system tests: an engine and a supervisor, started, watched and ended; it asserts nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CEILING_S = 20.0
LOOK_EVERY_S = 0.02


T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within_s: float = CEILING_S) -> T:
    """Looks until the result is true; the ceiling bounds a broken test, it does not time a good one."""
    give_up_at = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        if time.monotonic() > give_up_at:
            raise AssertionError(f"{what}: not within {within_s} s")
        threading.Event().wait(LOOK_EVERY_S)


def clean_environment(**extra: str) -> dict[str, str]:
    """This environment without anything that would configure flowherd."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KRUXIAFLOW_", "FLOWHERD_", "WORKER_"))
    }
    return kept | extra


class Engine:
    """An embedded engine in a process of its own, with test hooks; its journal is the oracle."""

    def __init__(
        self, *flags: str, port: int = 0, db: str = ":memory:", credentials: tuple[str, str] | None = None
    ) -> None:
        words = [
            sys.executable,
            "-m",
            "flowherd_supervisor.engine",
            "--port",
            str(port),
            "--db",
            db,
            "--test-hooks",
            *flags,
        ]
        words += ["--client-id", credentials[0]] if credentials else []
        secret = {"KRUXIAFLOW_CLIENT_SECRET": credentials[1]} if credentials else {}
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=clean_environment(**secret)
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listening on" in line, f"the engine said {line!r}"
        self.url = line.split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=35, trust_env=False)
        if credentials:
            form = {
                "grant_type": "client_credentials",
                "client_id": credentials[0],
                "client_secret": credentials[1],
            }
            token = self.http.post("/api/v1/oauth/token", data=form).json()["access_token"]
            self.http.headers["authorization"] = f"Bearer {token}"
        self._definitions: set[str] = set()
        self._seen = 0
        self._journal: list[dict[str, Any]] = []

    def submit(
        self, activity: str, count: int = 1, /, *, settings: dict[str, Any] | None = None, **params: Any
    ) -> list[str]:
        """Queues `count` one-step workflows that run `activity`, and returns the workflows' ids."""
        definition = f"{activity}-{'-'.join(sorted(params))}" + (
            f"-{abs(hash(str(settings)))}" if settings else ""
        )
        if definition not in self._definitions:
            step = {"key": "step", "worker": "py-std", "activity_name": activity}
            step["parameters"] = {key: f"{{{{INPUT.{key}}}}}" for key in params}
            step |= {"settings": settings} if settings else {}
            self._post("/api/v1/workflow_definitions", {"name": definition, "activities": [step]})
            self._definitions.add(definition)
        body = {"definition_name": definition, "input": params}
        return [self._post("/api/v1/workflows", body)["workflow_id"] for _ in range(count)]

    def _post(self, path: str, body: Any) -> Any:
        reply = self.http.post(path, json=body)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def journal(self, wait_s: float = 0.0) -> list[dict[str, Any]]:
        """Every claim and verdict so far; with `wait_s` it waits for at least one more."""
        reply = self.http.get("/__test__/ledger", params={"after": self._seen, "wait_s": wait_s})
        fresh = reply.json()["entries"]
        self._journal += fresh
        self._seen = self._journal[-1]["seq"] if self._journal else 0
        return self._journal

    def wait_for(self, event: str, count: int, within_s: float = CEILING_S) -> list[dict[str, Any]]:
        """Waits until the journal holds `count` accepted entries of a kind, and returns them."""
        give_up_at = time.monotonic() + within_s
        while True:
            found = self.entries(event)
            if len(found) >= count:
                return found
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                tail = "\n".join(map(str, self._journal[-50:]))
                raise AssertionError(
                    f"{len(found)} of {count} {event} within {within_s} s; the journal ends:\n{tail}"
                )
            self.journal(wait_s=min(left_s, 5.0))

    def entries(self, event: str) -> list[dict[str, Any]]:
        """The accepted entries of a kind so far."""
        return [
            entry for entry in self.journal() if entry["event"] == event and entry["verdict"] not in REFUSED
        ]

    def claims_per_activity(self) -> Counter[str]:
        """How often each activity was handed out."""
        return Counter(entry["activity_id"] for entry in self.entries("claim"))

    def completions_per_activity(self) -> Counter[str]:
        """How often each activity's completion was accepted; a repeat of the same is no second one."""
        return Counter(
            entry["activity_id"] for entry in self.entries("complete") if entry["attempt"] is not None
        )

    def workflow(self, workflow_id: str) -> dict[str, Any]:
        """The status document of a workflow."""
        return self.http.get(f"/api/v1/workflows/{workflow_id}").json()

    def output(self, workflow_id: str) -> dict[str, Any]:
        """The outputs of a one-step workflow, by name."""
        step = self.workflow(workflow_id)["activities"][0]
        return {item["name"]: item["value"] for item in step["outputs"]}

    def advance(self, seconds: float) -> None:
        """Lets the engine's clock jump."""
        self._post("/__test__/clock", {"advance_s": seconds})

    def stop(self) -> None:
        """Ends the engine."""
        self.http.close()
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(CEILING_S)


REFUSED = frozenset({"gone", "conflict", "refused", "unknown", "not_found", "409", "404"})


class Host:
    """A `flowherd run` in a process of its own; its log is JSON lines in a file."""

    def __init__(
        self,
        folder: Path,
        app: str,
        *flags: str,
        url: str = "",
        env: dict[str, str] | None = None,
        app_dir: Path | None = None,
        admin: str = "off",
    ) -> None:
        self.folder = folder
        self.log_path = folder / "log.jsonl"
        runtime = folder / "r"
        runtime.mkdir(mode=0o700, exist_ok=True)
        words = [
            sys.executable,
            "-m",
            "flowherd_supervisor",
            "run",
            app,
            "--app-dir",
            str(app_dir or APPS),
            "--admin",
            admin,
        ]
        words += ["--log-format", "json", *(["--api-url", url] if url else []), *flags]
        environment = clean_environment(XDG_RUNTIME_DIR=str(runtime), **(env or {}))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=folder)
        self.pid = self.process.pid
        self.socket = str(runtime / "flowherd" / f"{self.pid}.sock")

    def status(self) -> dict[str, Any]:
        """The status document; empty while nobody answers yet."""
        try:
            return self.get("/api/status").json()
        except httpx.TransportError:
            return {}

    def get(self, path: str) -> httpx.Response:
        """One of the admin pages, through the unix socket."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request to the unix socket."""
        transport = httpx.HTTPTransport(uds=self.socket)
        with httpx.Client(transport=transport, base_url="http://flowherd", timeout=5) as client:
            return client.request(method, path, **options)

    def ready(self, processes: int) -> Host:
        """Waits until so many workers are ready."""
        self.wait_for_log("process_ready", processes + 1)
        return self

    def children(self) -> dict[int, int]:
        """Pids of the live workers, by process number."""
        return {row["process"]: row["pid"] for row in self.status().get("children", [])}

    def keeper(self) -> int:
        """The keeper's pid."""
        return [line["pid"] for line in self.log("process_started") if line["process"] == "keeper"][-1]

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """The log so far, or its lines about one event; lines that are no JSON are under `raw`."""
        lines = []
        for text in self.log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                lines.append({"raw": text})
        return [line for line in lines if not event or line.get("event") == event]

    def wait_for_log(self, event: str, count: int = 1, within_s: float = CEILING_S) -> list[dict[str, Any]]:
        """Waits until the log has `count` lines about an event."""

        def look() -> list[dict[str, Any]]:
            found = self.log(event)
            if len(found) < count and self.process.poll() is not None:
                raise AssertionError(
                    f"the supervisor exited with {self.process.returncode}:\n{self.log_path.read_text()}"
                )
            return found if len(found) >= count else []

        return eventually(look, f"{count} x {event} in {self.log_path}", within_s)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        os.kill(self.pid, number)

    def wait(self, within_s: float = CEILING_S) -> int:
        """Waits for the supervisor's end and returns its exit code."""
        return self.process.wait(within_s)

    def tree(self) -> list[int]:
        """The pids of all processes this host has ever started that still exist."""
        pids = {line["pid"] for line in [*self.log("process_started"), *self.log("preload_started")]}
        return sorted(pid for pid in pids if _alive(pid))

    def stop(self) -> None:
        """Ends whatever is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.process.poll() is None:
            for pid in self.tree():
                os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait(CEILING_S)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


APPS = Path(__file__).parent / "system" / "apps"


@contextlib.contextmanager
def running_engine(*flags: str, **options: Any) -> Iterator[Engine]:
    """An engine that ends with the block."""
    engine = Engine(*flags, **options)
    try:
        yield engine
    finally:
        engine.stop()


@contextlib.contextmanager
def running_host(folder: Path, app: str, *flags: str, **options: Any) -> Iterator[Host]:
    """A host that ends with the block."""
    host = Host(folder, app, *flags, **options)
    try:
        yield host
    finally:
        host.stop()
