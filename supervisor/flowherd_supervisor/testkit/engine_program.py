"""An embedded engine as a separate program, and the calls that tests make to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from flowherd_supervisor.testkit.programs import CEILING_S, Program, clean_environment, eventually
from flowherd_supervisor.testkit.workflow_client import ENDED, Deployed, WorkflowClient, one_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

HOOKED = "flowherd_supervisor.testkit.hooked_engine"
ENDS_WITHIN_S = (
    90.0  # work that was being handed to a killed process is handed out again after a lease of 60 s
)


class EngineProgram:
    """An engine in memory on a free port of 127.0.0.1; it ends with `stop()` or its `with` block.

    Args:
        flags: flags of the engine, such as `--default-lease 3` (seconds) or `--sweep-interval 0.5`.
        port: port to listen on; 0 picks a free one.
        db: a file instead of memory, so that another engine can continue with the same work.
        credentials: client id and secret that the engine enforces; None: it needs no token.
        hooked: True starts it with hooks for tests, False as `flowherd engine` does.
        log: file for its stderr; None: it inherits that of this process.
        tie: see `Program`.

    Attributes:
        url: base URL, as for `--api-url`.
        program: the program.
        process: its process.
        client: client of its workflow API, with the credentials.
        http: the client's HTTP client, for any other call.

    """

    def __init__(
        self,
        *flags: str,
        port: int = 0,
        db: str = ":memory:",
        credentials: tuple[str, str] | None = None,
        hooked: bool = True,
        log: Path | None = None,
        tie: Callable[[], None] | None = None,
    ) -> None:
        words = [] if hooked else ["engine"]
        words += ["--port", str(port), "--db", db, *flags]
        words += ["--client-id", credentials[0]] if credentials else []
        env = clean_environment(**{"KRUXIAFLOW_CLIENT_SECRET": credentials[1]} if credentials else {})
        module = HOOKED if hooked else "flowherd_supervisor"
        self.program = Program(*words, module=module, env=env, log=log, announces=True, tie=tie)
        self.process = self.program.process
        self.url = self.program.address()
        self.client = WorkflowClient(self.url, credentials)
        self.http = self.client.http
        self._deployed: dict[str, Deployed] = {}

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
            activity: name of the activity.
            count: number of workflows.
            settings: settings of the step, such as `{"retry": {"max_attempts": 1}}` or `{"timeout_seconds": 5}`.
            worker: the worker type that serves it.
            params: the activity's parameters.

        """
        name = "-".join([activity, worker, *sorted(params)])
        name += f"-{abs(hash(str(settings)))}" if settings else ""
        if name not in self._deployed:
            definition = one_step(name, activity, params, worker=worker, settings=settings)
            self._deployed[name] = self.client.deploy(definition)
        return [self.client.submit(self._deployed[name], params).id for _ in range(count)]

    def workflow(self, workflow_id: str) -> dict[str, Any]:
        """The status document of a workflow."""
        document: dict[str, Any] = self.http.get(f"/api/v1/workflows/{workflow_id}").json()
        return document

    def ended(self, workflow_id: str, within_s: float = ENDS_WITHIN_S) -> dict[str, Any]:
        """Waits until a workflow completes or fails and returns its status document; AssertionError if it does not."""

        def look() -> dict[str, Any]:
            document = self.workflow(workflow_id)
            return document if document["status"] in ENDED else {}

        return eventually(look, f"the end of workflow {workflow_id}", within_s)

    def output(self, workflow_id: str) -> dict[str, Any]:
        """Returns the outputs of a completed one-step workflow by name.

        Raises:
            AssertionError: the workflow has failed, with its error; or it has not ended, see `ended`.

        """
        found = self.client.workflow(workflow_id)
        failed = f"failed: {found.error}"
        state = (
            failed
            if found.status == "failed"
            else f"has not ended, it is {found.status}: `ended` waits for it"
        )
        assert found.status == "completed", f"workflow {workflow_id} has no output: it {state}"
        return found.output

    def advance(self, seconds: float) -> None:
        """Advances the engine's clock, so that leases and retry delays end without waiting."""
        self.post("/__test__/clock", {"advance_s": seconds})

    def post(self, path: str, body: Any) -> Any:
        """Posts `body` and returns the decoded reply; AssertionError with the reply's text unless the status is 2xx."""
        reply = self.http.post(path, json=body)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def stop(self) -> None:
        """Ends the engine."""
        self.client.close()
        self.program.stop(CEILING_S)
