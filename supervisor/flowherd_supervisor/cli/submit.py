"""`flowherd submit`: queues activities or a definition on any engine and waits for their outputs."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.errors import ConfigurationError, EngineError, EngineUnauthorized
from flowherd.exit_codes import Exit
from flowherd.logs import visible
from flowherd_supervisor.cli.ask_local_hosts import not_taken, origin, served_here, unknown_name
from flowherd_supervisor.cli.definition_check import warnings_of, workers_of
from flowherd_supervisor.cli.submit_outcome import show_outcome
from flowherd_supervisor.cli.submit_progress import SubmitProgress
from flowherd_supervisor.testkit.definition_reader import read_definition
from flowherd_supervisor.testkit.workflow_client import Workflow, WorkflowClient, one_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowherd.settings.worker_config import WorkerConfig
    from flowherd_supervisor.cli.ask_local_hosts import Served
    from flowherd_supervisor.testkit.workflow_client import Started

_BEGINS_JSON = frozenset('{["')


@dataclass(frozen=True, slots=True)
class Submission:
    """The work to queue: activities by name, each as a one-step definition, or one definition from a file."""

    names: Sequence[str]
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    definition: Path | None = None
    worker_type: str = "py-std"
    wait: bool = True
    as_json: bool = False


def read_inputs(pairs: Sequence[str], document: str | None) -> dict[str, Any]:
    """Returns the inputs from `key=json` pairs and a JSON object or `@file`.

    A value that is not JSON is taken as text, unless it starts like an object, a list or a string.

    Raises:
        ConfigurationError: a pair without `=`, an unreadable file, broken JSON, or not a JSON object.

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
        except (msgspec.DecodeError, RecursionError) as error:
            if value.lstrip()[:1] in _BEGINS_JSON:
                quoted = msgspec.json.encode(value).decode()
                raise ConfigurationError(
                    f"-P {pair}: this is no JSON: {error}; as text it is -P {shlex.quote(f'{key}={quoted}')}"
                ) from None
            inputs[key] = value
    return inputs


def submit(submission: Submission, config: WorkerConfig) -> int:
    """Queues, waits and prints.

    Returns:
        0 if everything completed (or was queued, with `wait` off), 1 if something failed or the engine
        could not be used, 4 if it refused the credentials.

    Raises:
        ConfigurationError: nothing to submit, too much, or an unreadable definition.

    """
    definitions = _definitions(submission)
    workers = _compare_with_hosts(submission, definitions, config.api_url)
    secret = config.client_secret.get_secret_value() if config.client_secret else ""
    engine = WorkflowClient(config.api_url, (config.client_id, secret) if config.client_id else None)
    code = Exit.CLEAN
    running: list[Started] = []
    try:
        running.extend(engine.submit(engine.deploy(one), submission.inputs) for one in definitions)
        for started in tuple(running):
            waiting = SubmitProgress(started, config.api_url, workers)
            workflow = engine.end_of(started, waiting.look) if submission.wait else Workflow(started.status)
            running.remove(started)
            is_one_step = submission.definition is None
            show_outcome(started, workflow, is_one_step=is_one_step, as_json=submission.as_json)
            code = Exit.INTERNAL if workflow.status == "failed" else code
    except KeyboardInterrupt:
        for started in running:
            sys.stderr.write(
                f"flowherd: {started.definition} {started.id}: still runs: flowherd explain {started.id}\n"
            )
        raise
    except EngineUnauthorized as error:
        sys.stderr.write(f"flowherd: {config.api_url}: {error}\n")
        return Exit.CREDENTIALS_REFUSED
    except EngineError as error:
        sys.stderr.write(f"flowherd: {config.api_url}: {error}\n")
        return Exit.INTERNAL
    finally:
        engine.close()
    return code


def _compare_with_hosts(
    submission: Submission, definitions: Sequence[bytes], api_url: str
) -> Mapping[str, str]:
    """Compares names and inputs with the activities of hosts on this machine; returns each step's worker type.

    Warns of what does not fit in a definition; if the hosts that serve this engine and worker type do not have the
    activity, which another machine may have; and if only hosts of others have it without that parameter.

    Raises:
        ConfigurationError: a host that serves this engine and worker type has the activity without that parameter.

    """
    hosts = served_here()
    if submission.definition is None:
        _compare_names(submission, hosts, api_url)
        return {_key_of(name): submission.worker_type for name in submission.names}
    document = read_definition(definitions[0])
    if document is None:
        return {}
    own = [host for host in hosts if origin(host.engine) == origin(api_url)]
    for warning in warnings_of(document, submission.inputs, own):
        sys.stderr.write(f"flowherd: warning: {visible(warning)}\n")
    return workers_of(document)


def _compare_names(submission: Submission, hosts: Sequence[Served], api_url: str) -> None:
    own = [host for host in hosts if host.serves(api_url, submission.worker_type)]
    for name in submission.names:
        knows = any(name in host.activities for host in own)
        if own and not knows:
            sys.stderr.write(f"flowherd: warning: {visible(unknown_name(name, own))}\n")
        complaint = not_taken(name, submission.inputs, own if knows else hosts)
        if complaint and knows:
            raise ConfigurationError(complaint)
        if complaint:
            sys.stderr.write(
                f"flowherd: warning: {complaint}, which works for another engine or worker type\n"
            )


def _definitions(submission: Submission) -> list[bytes]:
    """Returns the definitions to deploy: the file unchanged, or a one-step definition for each name."""
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


def _key_of(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) or "step"


def _one_step(name: str, submission: Submission) -> bytes:
    key = _key_of(name)
    inputs = sorted(submission.inputs)
    return one_step(f"flowherd-{key}", name, inputs, worker=submission.worker_type, key=key)
