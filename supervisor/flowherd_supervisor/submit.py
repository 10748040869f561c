"""`flowherd submit`: queues activities or a definition on any engine and waits for their outputs; it runs nothing."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from flowherd.auth import BearerAuth, HostTokens
from flowherd.config import WorkerConfig
from flowherd.errors import ConfigurationError, EngineError, EngineUnavailable
from flowherd.exits import Exit
from flowherd.ledger import Ledger
from flowherd.transport import new_client

API = "/api/v1"
_CALL_DEADLINE_S = 30.0
_LOOK_FIRST_S, _LOOK_SLOWEST_S = 0.05, 1.0
_ENDED = frozenset({"completed", "failed"})


@dataclass(frozen=True, slots=True)
class Submission:
    """What to queue: activities by name, each as a one-step definition, or one definition from a file."""

    names: Sequence[str]
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    definition: Path | None = None
    worker_type: str = "py-std"
    wait: bool = True
    as_json: bool = False


def read_inputs(pairs: Sequence[str], document: str | None) -> dict[str, Any]:
    """Inputs out of `key=json` pairs and a JSON object or `@file`; a value that is no JSON is taken as text.

    Raises:
        ConfigurationError: a pair without `=`, an unreadable file, or something that is no JSON object.
    """
    inputs: dict[str, Any] = {}
    if document is not None:
        try:
            text = Path(document[1:]).read_text(encoding="utf-8") if document.startswith("@") else document
            inputs = msgspec.json.decode(text, type=dict[str, Any])
        except OSError as error:
            raise ConfigurationError(f"--input {document}: {error.strerror}") from None
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"--input: a JSON object is needed: {error}") from None
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigurationError(f"-P {pair}: expected key=value, such as -P count=3")
        try:
            inputs[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            inputs[key] = value
    return inputs


def submit(submission: Submission, config: WorkerConfig) -> int:
    """Queues, waits and prints; returns 0 when everything was completed, 1 when something failed."""
    return asyncio.run(_submit(submission, config))


async def _submit(submission: Submission, config: WorkerConfig) -> int:
    plain = new_client(config.api_url, None, connections=1)
    auth = None
    if config.client_id:
        auth = BearerAuth(HostTokens(config, Ledger(seats=1, records=1), plain), config.api_url)
    async with plain, new_client(config.api_url, auth, connections=4) as http:
        engine = _Client(http)
        try:
            started = [await engine.start(body, submission.inputs) for body in _definitions(submission)]
            ended = [await engine.end_of(one) if submission.wait else one for one in started]
        except EngineError as error:
            sys.stderr.write(f"flowherd: {config.api_url}: {error}\n")
            return Exit.INTERNAL
    for workflow in ended:
        _show(workflow, submission)
    return Exit.INTERNAL if any(workflow["status"] == "failed" for workflow in ended) else Exit.CLEAN


def _definitions(submission: Submission) -> list[bytes]:
    """The definitions to deploy: the file as it is, or one step for each name."""
    if submission.definition is not None:
        try:
            return [submission.definition.read_bytes()]
        except OSError as error:
            raise ConfigurationError(f"--definition {submission.definition}: {error.strerror}") from None
    if not submission.names:
        raise ConfigurationError("say what to submit: flowherd submit NAME, or --definition FILE")
    return [_one_step(name, submission) for name in submission.names]


def _one_step(name: str, submission: Submission) -> bytes:
    step = {
        "key": re.sub(r"[^A-Za-z0-9_-]", "_", name) or "step",
        "worker": submission.worker_type,
        "activity_name": name,
        "parameters": {key: f"{{{{INPUT.{key}}}}}" for key in sorted(submission.inputs)},
    }
    return msgspec.json.encode({"name": f"flowherd-{step['key']}", "activities": [step]})


class _Client:
    """The few calls of a workflow's user, as opposed to a worker's (protocol.md §11-§13)."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def start(self, definition: bytes, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Deploys and submits; always with the version that the deployment returned (protocol.md §11.1)."""
        deployed = await self._call("POST", f"{API}/workflow_definitions", definition)
        body = {"definition_name": deployed["name"], "version": deployed["version"], "input": inputs}
        reply = await self._call("POST", f"{API}/workflows", msgspec.json.encode(body))
        return {"id": reply["workflow_id"], "status": reply["status"], "definition": deployed["name"], "activities": []}

    async def end_of(self, started: dict[str, Any]) -> dict[str, Any]:
        """Looks, ever less often, until the workflow is completed or failed."""
        pause_s = _LOOK_FIRST_S
        while True:
            workflow = await self._call("GET", f"{API}/workflows/{started['id']}")
            if workflow["status"] in _ENDED:
                return started | workflow
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_SLOWEST_S)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_CALL_DEADLINE_S):
                reply = await self._http.request(method, path, content=body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise EngineUnavailable(f"{type(error).__name__}: {error}; is the engine running?") from None
        if not reply.is_success:
            raise EngineError(f"{method} {path}: status {reply.status_code}: {reply.text[:500]}")
        return msgspec.json.decode(reply.content, type=dict[str, Any])


def _show(workflow: dict[str, Any], submission: Submission) -> None:
    """One line of JSON, or a few lines for eyes."""
    steps = {step["activity_key"]: _outputs(step) for step in workflow["activities"] if step["outputs"] is not None}
    output = next(iter(steps.values())) if submission.definition is None and steps else steps
    error = workflow.get("error_message")
    if submission.as_json:
        line = {"id": workflow["id"], "status": workflow["status"], "output": output or None, "error": error}
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        return
    sys.stdout.write(f"{workflow['definition']} {workflow['id']}: {workflow['status']}\n")
    if error:
        sys.stdout.write(f"  {error}\n")
    for name, value in output.items():
        sys.stdout.write(f"  {name}: {msgspec.json.encode(value).decode()}\n")


def _outputs(step: dict[str, Any]) -> dict[str, Any]:
    """An activity's outputs by name; the engine sends them as an unordered list (protocol.md §13)."""
    return {item["name"]: item["value"] for item in sorted(step["outputs"], key=lambda item: item["name"])}
