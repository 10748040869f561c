"""`flowherd submit`: queues activities or a definition on any engine and waits for their outputs; it runs nothing."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.errors import ConfigurationError, EngineError, EngineUnauthorized
from flowherd.exits import Exit
from flowherd.logs import visible
from flowherd_supervisor.testkit.workflow_client import Workflow, WorkflowClient, one_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowherd.settings.worker_config import WorkerConfig
    from flowherd_supervisor.testkit.workflow_client import Started


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
        place = f"--input {document}" if document.startswith("@") else "--input"
        try:
            data = Path(document[1:]).read_bytes() if document.startswith("@") else document.encode()
            inputs = msgspec.json.decode(data, type=dict[str, Any])
        except OSError as error:
            raise ConfigurationError(f"{place}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigurationError(
                f"{place}: a JSON object such as '{{\"n\": 3}}' is needed: {error}"
            ) from None
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigurationError(f"-P {pair}: expected key=value, such as -P count=3")
        try:
            inputs[key] = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            inputs[key] = value
    return inputs


def submit(submission: Submission, config: WorkerConfig) -> int:
    """Queues, waits and prints.

    Returns:
        0 when everything was completed (or queued, with `wait` off), 1 when something failed or the engine
        could not be used, 4 when it refused the credentials.

    Raises:
        ConfigurationError: nothing to submit, too much, or an unreadable definition.

    """
    definitions = _definitions(submission)
    secret = config.client_secret.get_secret_value() if config.client_secret else ""
    engine = WorkflowClient(config.api_url, (config.client_id, secret) if config.client_id else None)
    hint = f"does a worker of type {submission.worker_type!r} run? flowherd run APP"
    code = Exit.CLEAN
    try:
        queued = [engine.submit(engine.deploy(one), submission.inputs) for one in definitions]
        for started in queued:
            workflow = engine.end_of(started, hint) if submission.wait else Workflow(started.status)
            _show(started, workflow, submission)
            code = Exit.INTERNAL if workflow.status == "failed" else code
    except EngineUnauthorized as error:
        sys.stderr.write(f"flowherd: {config.api_url}: {error}\n")
        return Exit.CREDENTIALS_REFUSED
    except EngineError as error:
        sys.stderr.write(f"flowherd: {config.api_url}: {error}\n")
        return Exit.INTERNAL
    finally:
        engine.close()
    return code


def _definitions(submission: Submission) -> list[bytes]:
    """The definitions to deploy: the file as it is, or one step for each name."""
    if submission.definition is None:
        if not submission.names:
            raise ConfigurationError("say what to submit: flowherd submit NAME, or --definition FILE")
        return [_one_step(name, submission) for name in submission.names]
    if submission.names:
        raise ConfigurationError(
            f"submit {submission.names[0]} or --definition {submission.definition}, not both"
        )
    try:
        return [submission.definition.read_bytes()]
    except OSError as error:
        raise ConfigurationError(f"--definition {submission.definition}: {error.strerror}") from None


def _one_step(name: str, submission: Submission) -> bytes:
    key = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "step"
    inputs = sorted(submission.inputs)
    return one_step(f"flowherd-{key}", name, inputs, worker=submission.worker_type, key=key)


def _show(started: Started, workflow: Workflow, submission: Submission) -> None:
    """One line of JSON, or a few lines for eyes."""
    steps = workflow.outputs
    output = next(iter(steps.values())) if submission.definition is None and steps else steps
    if submission.as_json:
        line = {
            "id": started.id,
            "status": workflow.status,
            "output": output or None,
            "error": workflow.error,
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    else:
        lines = [f"{started.definition} {started.id}: {workflow.status}"]
        lines += [f"  {visible(workflow.error)}"] if workflow.error else []
        lines += [
            visible(f"  {name}: {msgspec.json.encode(value).decode()}") for name, value in output.items()
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
