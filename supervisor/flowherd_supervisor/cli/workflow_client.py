"""The few calls of a workflow's user, as opposed to a worker's (protocol.md §11-§13); it prints only a hint."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from flowherd.errors import EngineError, EngineUnauthorized, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

API = "/api/v1"
PATIENCE_S = 30.0  # an engine that restarts while we wait is no failure of the workflow
_CALL_DEADLINE_S = 30.0
_LOOK_FIRST_S, _LOOK_SLOWEST_S = 0.05, 1.0
HINT_AFTER_S = 5.0
_ENDED = frozenset({"completed", "failed"})
_TOO_BUSY = 429

_Reply = TypeVar("_Reply")


class _Deployed(msgspec.Struct):
    name: str
    version: Any


class _Submitted(msgspec.Struct):
    workflow_id: str
    status: str


class Started(msgspec.Struct):
    """A workflow that the engine has taken."""

    id: str
    status: str
    definition: str


class _Output(msgspec.Struct):
    name: str
    value: Any


class _Step(msgspec.Struct):
    activity_key: str
    outputs: list[_Output] | None = None
    error: str | None = None


class Workflow(msgspec.Struct):
    """The part of the status document that is shown (protocol.md §13)."""

    status: str
    activities: list[_Step] = []
    error_message: str | None = None

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """Each step's outputs by name; the engine sends them as an unordered list."""
        steps = {step.activity_key: step.outputs for step in self.activities if step.outputs is not None}
        return {
            key: {item.name: item.value for item in sorted(found, key=_name)} for key, found in steps.items()
        }

    @property
    def error(self) -> str | None:
        """What failed, by step; the engine's own words say only that something did."""
        if len(self.activities) == 1:
            return self.activities[0].error or self.error_message
        parts = [f"{step.activity_key}: {step.error}" for step in self.activities if step.error]
        return "; ".join(parts) or self.error_message


def _name(item: _Output) -> str:
    return item.name


class WorkflowClient:
    """Deploys, submits and watches.

    Args:
        http: a client for the engine, with its auth.
        worker_type: of the submitted activities, for the hint that nobody serves them.

    """

    def __init__(self, http: httpx.AsyncClient, worker_type: str) -> None:
        self._http = http
        self._worker_type = worker_type

    async def start(self, definition: bytes, inputs: Mapping[str, Any]) -> Started:
        """Deploys and submits; always with the version that the deployment returned (protocol.md §11.1)."""
        deployed = await self._call("POST", f"{API}/workflow_definitions", _Deployed, definition)
        body = {"definition_name": deployed.name, "version": deployed.version, "input": inputs}
        reply = await self._call("POST", f"{API}/workflows", _Submitted, msgspec.json.encode(body))
        return Started(reply.workflow_id, reply.status, deployed.name)

    async def end_of(self, started: Started) -> Workflow:
        """Looks, ever less often, until the workflow is completed or failed."""
        loop = asyncio.get_running_loop()
        began_at = heard_at = loop.time()
        pause_s, hinted = _LOOK_FIRST_S, False
        while True:
            try:
                workflow = await self._call("GET", f"{API}/workflows/{started.id}", Workflow)
                heard_at = loop.time()
                if workflow.status in _ENDED:
                    return workflow
            except EngineUnavailable as error:
                if loop.time() - heard_at > PATIENCE_S:
                    raise EngineUnavailable(f"{error} The workflow goes on: {started.id}") from None
            if not hinted and loop.time() - began_at > HINT_AFTER_S:
                hinted = True
                sys.stderr.write(
                    f"flowherd: {started.definition} {started.id} has not ended yet; {self._hint}\n"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_SLOWEST_S)

    @property
    def _hint(self) -> str:
        return f"does a worker of type {self._worker_type!r} run? flowherd run APP"

    async def _call(self, method: str, path: str, shape: type[_Reply], body: bytes | None = None) -> _Reply:
        try:
            async with asyncio.timeout(_CALL_DEADLINE_S):
                reply = await self._http.request(method, path, content=body)
        except (httpx.HTTPError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise EngineUnavailable(f"{said}; is the engine running? flowherd engine starts one.") from None
        place = f"{method} {path}: status {reply.status_code}"
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise EngineUnauthorized(f"{place}: check KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET")
        if reply.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or reply.status_code == _TOO_BUSY:
            raise EngineUnavailable(f"{place}: {_words(reply)}")
        if not reply.is_success:
            raise EngineError(f"{place}: {_words(reply)}")
        try:
            return msgspec.json.decode(reply.content, type=shape)
        except (msgspec.DecodeError, RecursionError):
            raise EngineError(f"{place}, but not as the engine answers: is --api-url right?") from None


def _words(reply: httpx.Response) -> str:
    """What the engine said, or where a redirect leads, on one line."""
    text = reply.headers.get("location") or reply.text[:500]
    return " ".join(text.split()) or "is --api-url right?"
