"""An embedded engine as a program of its own, and the calls a test makes to it; it asserts no outcome."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import httpx

from flowherd_supervisor.testkit.waiting import CEILING_S, clean_environment, eventually

if TYPE_CHECKING:
    from types import TracebackType

_FINAL = {"completed", "failed"}


class EngineProgram:
    """An engine in memory on a free port of 127.0.0.1; it ends with `stop()` or its `with` block.

    Args:
        flags: such as `--default-lease 3` (seconds) or `--sweep-interval 0.5`.
        port: 0 takes a free one.
        db: a file instead of memory, to start another engine with the same work.
        credentials: client id and secret, which it then enforces.

    Attributes:
        url: for `--api-url`.
        process: the program.
        http: a client of its API, authorised where it has to be.

    """

    def __init__(
        self, *flags: str, port: int = 0, db: str = ":memory:", credentials: tuple[str, str] | None = None
    ) -> None:
        words = [sys.executable, "-m", "flowherd_supervisor.testkit.hooked_engine"]
        words += ["--port", str(port), "--db", db, *flags]
        words += ["--client-id", credentials[0]] if credentials else []
        secret = {"KRUXIAFLOW_CLIENT_SECRET": credentials[1]} if credentials else {}
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
            words, stdout=subprocess.PIPE, text=True, env=clean_environment(**secret)
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "listening on" in line, f"the engine did not start: {line!r}; is flowherd[engine] installed?"
        self.url = line.split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=35, trust_env=False)
        if credentials:
            self._authorise(*credentials)
        self._definitions: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EngineProgram {self.url}>"

    def submit(
        self,
        activity: str,
        count: int = 1,
        /,
        *,
        settings: dict[str, Any] | None = None,
        worker: str = "py-std",
        **params: Any,
    ) -> list[str]:
        """Queues one-step workflows and returns their ids.

        Args:
            activity: its name.
            count: how many.
            settings: of the step, such as `{"retry": {"max_attempts": 1}}` or `{"timeout_seconds": 5}`.
            worker: the worker type that serves it.
            params: the activity's parameters.

        """
        definition = "-".join([activity, worker, *sorted(params)])
        definition += f"-{abs(hash(str(settings)))}" if settings else ""
        if definition not in self._definitions:
            step: dict[str, Any] = {"key": "step", "worker": worker, "activity_name": activity}
            step["parameters"] = {key: f"{{{{INPUT.{key}}}}}" for key in params}
            step |= {"settings": settings} if settings else {}
            self.post("/api/v1/workflow_definitions", {"name": definition, "activities": [step]})
            self._definitions.add(definition)
        body = {"definition_name": definition, "input": params}
        return [self.post("/api/v1/workflows", body)["workflow_id"] for _ in range(count)]

    def workflow(self, workflow_id: str) -> dict[str, Any]:
        """The status document of a workflow."""
        document: dict[str, Any] = self.http.get(f"/api/v1/workflows/{workflow_id}").json()
        return document

    def ended(self, workflow_id: str, within_s: float = CEILING_S) -> dict[str, Any]:
        """The status document of a workflow once it has completed or failed; AssertionError when it does not."""

        def look() -> dict[str, Any]:
            document = self.workflow(workflow_id)
            return document if document["status"] in _FINAL else {}

        return eventually(look, f"the end of workflow {workflow_id}", within_s)

    def output(self, workflow_id: str) -> dict[str, Any]:
        """The outputs of a one-step workflow that has completed, by name."""
        step = self.workflow(workflow_id)["activities"][0]
        return {item["name"]: item["value"] for item in step["outputs"]}

    def advance(self, seconds: float) -> None:
        """Lets the engine's clock jump: leases and retry delays end without waiting."""
        self.post("/__test__/clock", {"advance_s": seconds})

    def post(self, path: str, body: Any) -> Any:
        """What the engine answers; AssertionError with its words when it refuses."""
        reply = self.http.post(path, json=body)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def stop(self) -> None:
        """Ends the engine."""
        self.http.close()
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(CEILING_S)

    def _authorise(self, client_id: str, secret: str) -> None:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        token = self.http.post("/api/v1/oauth/token", data=form).json()["access_token"]
        self.http.headers["authorization"] = f"Bearer {token}"
