"""Client of the engine's workflow API: deploy, submit and status (protocol.md §11-§13)."""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from flowherd.client.bearer_tokens import TOKEN_ROUTE
from flowherd.errors import EngineError, EngineUnauthorized, EngineUnavailable
from flowherd.leases.engine_watch import Health
from flowherd.transport.transport import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

API = "/api/v1"
ENDED = frozenset({"completed", "failed"})
DEFAULT_QUEUE = "std"  # of a step that names no worker type
PATIENCE_S = 30.0  # an engine that restarts during a wait does not fail the workflow
_TIMEOUT_S = 35.0  # the engine may hold a reply back for up to 30 s
_LOOK_FIRST_S, _LOOK_SLOWEST_S = 0.05, 1.0
_TOO_BUSY = 429
_TIMED_OUT = re.compile(r"\bActivity timed out after (\d+) retries")  # protocol.md §7, sweep
_UNKNOWN_ID = re.compile(r"\bWorkflow '.*' not found|UUID parsing failed")  # protocol.md §13
_PAGE = 1000  # the most rows of a page, protocol.md §13

_Reply = TypeVar("_Reply")


class NotFound(EngineError):
    """The engine does not know the id."""


class Deployed(msgspec.Struct):
    """A definition that the engine has accepted."""

    name: str
    version: Any


class _Submitted(msgspec.Struct):
    workflow_id: str
    status: str


class Started(msgspec.Struct):
    """A workflow that the engine has accepted."""

    id: str
    status: str
    definition: str


class _Output(msgspec.Struct):
    name: str
    value: Any


class Step(msgspec.Struct):
    """An activity of a workflow."""

    activity_key: str
    status: str = ""
    outputs: list[_Output] | None = None
    error: str | None = None
    completed_at: datetime | None = None


class Workflow(msgspec.Struct):
    """The fields of the status document that flowherd uses (protocol.md §13).

    Callers set `orchestrator` by `WorkflowClient.hidden_trouble`, and `workers`, the worker type of each step by its
    key, by `WorkflowClient.workers_of`.
    """

    status: str
    activities: list[Step] = []
    error_message: str | None = None
    definition_name: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    orchestrator: str | None = None
    workers: dict[str, str] = {}

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Each step's outputs by name; the engine sends them as an unordered list."""
        steps = {step.activity_key: step.outputs for step in self.activities if step.outputs is not None}
        return {key: dict(sorted((item.name, item.value) for item in found)) for key, found in steps.items()}

    @property
    def output(self) -> dict[str, Any]:
        """The outputs of a one-step workflow; empty if there are none yet or it has failed."""
        return next(iter(self.outputs.values()), {})

    @property
    def error(self) -> str | None:
        """The errors of the failed steps; the engine's own message says only that something failed."""
        if len(self.activities) == 1:
            return self.activities[0].error or self.error_message
        parts = [f"{step.activity_key}: {step.error}" for step in self.activities if step.error]
        return "; ".join(parts) or self.error_message


def code_in(error: str | None) -> str | None:
    """Returns the engine's own code in the text of a failure; the code that a worker sent is in none of its replies."""
    if _TIMED_OUT.search(error or ""):
        return "ACTIVITY_TIMEOUT"
    return "ORCHESTRATOR_ERROR" if "ORCHESTRATOR_ERROR: " in (error or "") else None


def attempts_in(error: str | None) -> int | None:
    """Returns the number of attempts if the lease of the last one lapsed; else None: the engine does not report it."""
    found = _TIMED_OUT.search(error or "")
    return int(found[1]) + 1 if found else None


class _DefinedStep(msgspec.Struct):
    key: str
    worker: str = DEFAULT_QUEUE


class _Definition(msgspec.Struct):
    created_at: datetime
    activities: list[_DefinedStep]


class _Row(msgspec.Struct):
    updated_at: datetime


class _Page(msgspec.Struct):
    total: int
    workflows: list[_Row]


class _Granted(msgspec.Struct):
    access_token: str


def one_step(
    name: str,
    activity: str,
    parameters: Iterable[str],
    *,
    worker: str,
    key: str = "step",
    settings: Mapping[str, Any] | None = None,
) -> bytes:
    """Returns the JSON of a definition that runs one activity with the workflow's inputs."""
    step: dict[str, Any] = {"key": key, "worker": worker, "activity_name": activity}
    step["parameters"] = {parameter: f"{{{{INPUT.{parameter}}}}}" for parameter in parameters}
    step |= {"settings": settings} if settings else {}
    return msgspec.json.encode({"name": name, "activities": [step]})


class WorkflowClient:
    """Deploys definitions, submits workflows and follows them.

    Args:
        url: base URL of the engine.
        credentials: client id and secret; None: no token is sent.

    Attributes:
        http: the HTTP client, for calls that have no method here.

    """

    def __init__(self, url: str, credentials: tuple[str, str] | None = None) -> None:
        self.http = httpx.Client(
            base_url=url,
            auth=_Bearer(url, *credentials) if credentials else None,
            verify=tls_context() if url.startswith("https:") else False,
            timeout=_TIMEOUT_S,
            trust_env=False,
            headers={"accept-encoding": "identity", "user-agent": "flowherd"},
        )

    def deploy(self, definition: bytes) -> Deployed:
        """Deploys a definition, YAML or JSON."""
        return self._call("POST", f"{API}/workflow_definitions", Deployed, definition)

    def submit(self, deployed: Deployed, inputs: Mapping[str, Any]) -> Started:
        """Starts a workflow, always with the version that the deployment returned (protocol.md §11.1)."""
        body = {"definition_name": deployed.name, "version": deployed.version, "input": inputs}
        reply = self._call("POST", f"{API}/workflows", _Submitted, msgspec.json.encode(body))
        return Started(reply.workflow_id, reply.status, deployed.name)

    def workflow(self, workflow_id: str) -> Workflow:
        """Returns the status document of a workflow; raises NotFound if there is none."""
        return self._call("GET", f"{API}/workflows/{quote(workflow_id, safe='')}", Workflow)

    def workers_of(self, workflow: Workflow) -> dict[str, str]:
        """Returns the worker type of each step from the newest version of its definition; {} if that is newer."""
        path = f"{API}/workflow_definitions/{quote(workflow.definition_name, safe='')}"
        definition = self._call("GET", path, _Definition)
        if workflow.created_at is None or definition.created_at > workflow.created_at:
            return {}
        return {step.key: step.worker for step in definition.activities}

    def hidden_trouble(self) -> str | None:
        """The words of an orchestrator that is unhealthy in an engine that says it is ready (protocol.md §16)."""
        return self._call("GET", "/health/ready", Health).hidden_trouble

    def end_of(self, started: Started, look: Callable[[Workflow, float], None]) -> Workflow:
        """Polls at growing intervals until the workflow has completed or failed.

        Args:
            started: the workflow.
            look: called with each status before the end and the seconds waited so far.

        """
        began_at = heard_at = time.monotonic()
        pause_s = _LOOK_FIRST_S
        while True:
            try:
                workflow = self.workflow(started.id)
                heard_at = time.monotonic()
                if workflow.status in ENDED:
                    return workflow
                look(workflow, heard_at - began_at)
            except EngineUnavailable as error:
                if time.monotonic() - heard_at > PATIENCE_S:
                    raise EngineUnavailable(f"{error} The workflow goes on: {started.id}") from None
            threading.Event().wait(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_SLOWEST_S)

    def total(self, status: str) -> int:
        """Returns the number of workflows with this status; the reply is small however many there are."""
        return self._call("GET", f"{API}/workflows?status={status}&limit=1", _Page).total

    def ended_at(self) -> list[float]:
        """Returns the time of the last change of each completed workflow, in seconds of the engine's clock."""
        times: list[float] = []
        while True:
            path = f"{API}/workflows?status=completed&limit={_PAGE}&offset={len(times)}"
            rows = self._call("GET", path, _Page).workflows
            times += [row.updated_at.timestamp() for row in rows]
            if len(rows) < _PAGE:
                return times

    def close(self) -> None:
        """Closes the connections."""
        self.http.close()

    def _call(self, method: str, path: str, shape: type[_Reply], body: bytes | None = None) -> _Reply:
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            reply = self.http.request(method, path, content=body, headers=headers)
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise EngineUnavailable(f"{reason}; is the engine running? flowherd engine starts one.") from None
        return _decoded(f"{method} {path}", reply, shape)


class _Bearer(httpx.Auth):
    """httpx authentication that fetches a token before the first call and a new one after a 401."""

    requires_response_body = True

    def __init__(self, url: str, client_id: str, secret: str) -> None:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        self._request = httpx.Request("POST", f"{url.rstrip('/')}{TOKEN_ROUTE}", data=form)
        self._header = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yields requests to httpx and receives their responses."""
        had_one = bool(self._header)
        if not had_one:
            yield from self._fetch()
        request.headers["authorization"] = self._header
        response = yield request
        if had_one and response.status_code == httpx.codes.UNAUTHORIZED:
            yield from self._fetch()
            request.headers["authorization"] = self._header
            yield request

    def _fetch(self) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield self._request
        self._header = f"Bearer {_decoded(f'POST {TOKEN_ROUTE}', response, _Granted).access_token}"


def _decoded(call: str, reply: httpx.Response, shape: type[_Reply]) -> _Reply:
    """Decodes the body of a successful reply; raises the matching EngineError for any other."""
    place = f"{call}: status {reply.status_code}"
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        raise EngineUnauthorized(f"{place}: check KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET")
    if reply.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or reply.status_code == _TOO_BUSY:
        raise EngineUnavailable(f"{place}: {_explanation(reply)}")
    if not reply.is_success:
        is_id = _UNKNOWN_ID.search(reply.text) is not None
        raise (NotFound if is_id else EngineError)(f"{place}: {_explanation(reply)}")
    try:
        return msgspec.json.decode(reply.content, type=shape)
    except (msgspec.DecodeError, RecursionError):
        raise EngineError(f"{place}, but not as the engine answers: is --api-url right?") from None


def _explanation(reply: httpx.Response) -> str:
    """Returns the reply's text, or the target of a redirect, on one line."""
    text = reply.headers.get("location") or reply.text[:500]
    return " ".join(text.split()) or "is --api-url right?"
