"""`flowherd explain`: the history of a workflow from the hosts on this machine and its engine."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table
from rich.text import Text

from flowherd.counted import counted
from flowherd.errors import ConfigurationError, EngineError, EngineUnauthorized
from flowherd.exit_codes import Exit
from flowherd.logs import visible
from flowherd_supervisor.cli.ask_local_hosts import origin
from flowherd_supervisor.cli.explain_next import NOTHING, Explained, explained_here, next_of
from flowherd_supervisor.cli.status_tables import failure_text, moved_lines
from flowherd_supervisor.print_text import print_text
from flowherd_supervisor.testkit.workflow_client import ENDED, NotFound, Workflow, WorkflowClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from flowherd.settings.worker_config import WorkerConfig

_DAY_S = 86_400.0
_ENGINE_WITHIN_S = 10.0
_STYLES = {
    "failed": "red", "crashed": "red", "hung": "red", "given_up": "bold red", "lost": "yellow",
    "requeued": "yellow", "stopped": "yellow", "cancelled": "yellow", "completed": "green", "delivered": "green",
}  # fmt: skip
_TEXTS = {
    "created": "created",
    "claimed": "claimed: {name} {activity_id}",
    "retried": "claimed again ({nth} time on this host): {name} {activity_id}",
    "begun": "handler started",
    "beat": "last confirmed heartbeat",
    "returned": "handler returned",
    "completed": "completed",
    "delivered": "completed: the keeper delivered the result that the dead process had kept",
    "failed": "failed: {words}",
    "crashed": "crashed: {words}",
    "hung": "ended with its process: {words}",
    "stopped": "stopped: {words}",
    "cancelled": "cancelled: {words}",
    "requeued": "requeued: the engine runs it again",
    "given_up": "failed for good: {words}",
    "adopted": "its process ended before it had begun: another one goes on with it",
    "lost": "lost: the engine gave it to another worker, or ended it",
}


@dataclass(frozen=True, slots=True)
class Question:
    """The id of a workflow or of one of its activities, and optionally the only activity to show.

    `has_engine` is True if settings name an engine; the default engine is asked only if no host names another.
    """

    wanted: str
    activity: str | None = None
    api_url: str | None = None
    as_json: bool = False
    has_engine: bool = True


def explain(question: Question, config: WorkerConfig) -> int:
    """Prints the history of a workflow and its next step.

    Args:
        question: the ids.
        config: the engine and its credentials; the engine of a host that knows the workflow takes precedence.

    Returns:
        0, also without an answer from the engine if a host knows the workflow; 1 if no host does and the engine could
        not be reached; 4 if the engine refused the credentials and no host knows the workflow.

    Raises:
        ConfigurationError: the id is empty or unknown, or the workflow has no such activity.

    """
    question = replace(question, wanted=_as_written(question.wanted))
    answers = explained_here(question.wanted, question.activity or "")
    hosts = [host for host in answers if host.knows]
    workflow_id = next((host.workflow_id for host in hosts), question.wanted)
    engines = [question.api_url] if question.api_url else _engines(question, hosts, answers, config)
    url, workflow, trouble = _ask_engines(workflow_id, engines, config)
    if workflow is None and not hosts:
        if isinstance(trouble, NotFound):
            raise ConfigurationError(_unknown(question, engines, answers))
        sys.stderr.write(visible(f"flowherd: {url}: {trouble}") + "\n")
        return Exit.CREDENTIALS_REFUSED if isinstance(trouble, EngineUnauthorized) else Exit.INTERNAL
    own = [host for host in answers if origin(host.engine) == origin(url)]
    document = _document(question, workflow_id, url, workflow, hosts, own, trouble)
    if question.as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        print_text(*render(document))
    return Exit.CLEAN


def _as_written(wanted: str) -> str:
    """Returns the id in canonical form: the engine takes a UUID in any form, but hosts compare strings."""
    wanted = wanted.strip()
    if not wanted:
        raise ConfigurationError(
            "WORKFLOW_ID is empty: flowherd submit prints it, log lines have workflow_id"
        )
    try:
        return str(uuid.UUID(wanted))
    except ValueError:
        return wanted


def _engines(
    question: Question, hosts: Sequence[Explained], answers: Sequence[Explained], config: WorkerConfig
) -> list[str]:
    """Returns the engines to ask: those of hosts that know the workflow, the configured one, those of other hosts."""
    configured = [config.api_url] if question.has_engine or not answers else []
    urls = [*(host.engine for host in hosts), *configured, *(host.engine for host in answers)]
    by_origin: dict[str, str] = {}
    for url in urls:
        by_origin.setdefault(origin(url), url)
    return list(by_origin.values())[: 1 if hosts else None]


def _ask_engines(
    workflow_id: str, urls: Sequence[str], config: WorkerConfig
) -> tuple[str, Workflow | None, EngineError | None]:
    """Returns URL and reply of the first engine that knows the workflow; else an error, NotFound last, with its URL."""
    troubles: list[tuple[str, EngineError]] = []
    for url in urls:
        try:
            return url, _ask_engine(workflow_id, url, config), None
        except EngineError as error:
            troubles.append((url, error))
    troubles.sort(key=lambda one: isinstance(one[1], NotFound))
    return troubles[0][0], None, troubles[0][1]


def _ask_engine(workflow_id: str, url: str, config: WorkerConfig) -> Workflow:
    """Fetches the workflow; only the configured engine is sent the configured secret."""
    is_own = origin(url) == origin(config.api_url)
    secret = config.client_secret.get_secret_value() if config.client_secret else ""
    client = WorkflowClient(url, (config.client_id, secret) if config.client_id and is_own else None)
    client.http.timeout = _ENGINE_WITHIN_S
    try:
        workflow = client.workflow(workflow_id)
        if workflow.status not in ENDED:
            with contextlib.suppress(EngineError):  # an engine that does not tell
                workflow.orchestrator = client.hidden_trouble()
            with contextlib.suppress(EngineError):
                workflow.workers = client.workers_of(workflow)
        return workflow
    finally:
        client.close()


def _unknown(question: Question, urls: Sequence[str], answers: Sequence[Explained]) -> str:
    asked = ", ".join(map(str, answers)) or "none is running"
    return (
        f"{question.wanted}: neither the engine {' or '.join(urls)} nor a host on this machine ({asked}) knows "
        "a workflow or activity of this id; flowherd submit prints the id of a workflow, log lines have "
        "workflow_id and activity_id; another engine is named by --api-url"
    )


def _document(
    question: Question,
    workflow_id: str,
    url: str,
    workflow: Workflow | None,
    hosts: Sequence[Explained],
    own: Sequence[Explained],
    trouble: EngineError | None,
) -> dict[str, Any]:
    events = sorted(_events(workflow, hosts), key=lambda event: float(event["at"]))
    steps = [] if workflow is None else workflow.activities
    if question.activity is not None:
        events, steps = _only(question.activity, events, steps)
        keys = {step.activity_key for step in steps} | {event["key"] for event in events if event["key"]}
        workflow = workflow and msgspec.structs.replace(workflow, activities=list(steps))
        hosts = [_of_keys(host, keys) for host in hosts]
    return {
        "workflow_id": workflow_id,
        "status": None if workflow is None else workflow.status,
        "definition": None if workflow is None else workflow.definition_name,
        "engine": {"url": url, "error": None if trouble is None else str(trouble)},
        "hosts": [{"pid": host.pid, "app": host.app} for host in hosts],
        "activities": [
            {"key": step.activity_key, "status": step.status, "error": step.error} for step in steps
        ],
        "events": events,
        "present": [
            {"pid": host.pid, **msgspec.structs.asdict(one)} for host in hosts for one in host.present
        ],
        "left_out": sum(host.left_out for host in hosts),
        "moved": _moved(events, hosts),
        "next": next_of(workflow, hosts, own, time.time()),
    }


def _moved(events: Sequence[Mapping[str, Any]], hosts: Sequence[Explained]) -> list[dict[str, Any]]:
    """Returns what hosts have moved to isolates of the activities that the events name."""
    names = {event["name"] for event in events} | {one.name for host in hosts for one in host.present}
    return [{"pid": host.pid, **one} for host in hosts for one in host.moved if one["activity"] in names]


def _only(
    activity: str, events: list[dict[str, Any]], steps: list[Any]
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Selects the events and steps of one activity by its id, key or name."""
    keys = {
        event["key"] for event in events if activity in {event["activity_id"], event["name"], event["key"]}
    }
    keys |= {step.activity_key for step in steps if step.activity_key == activity}
    keys.discard("")
    if not keys:
        known = sorted(
            {event["key"] for event in events if event["key"]} | {step.activity_key for step in steps}
        )
        raise ConfigurationError(
            f"--activity {activity}: this workflow has no such activity; it has {', '.join(known) or 'none'}"
        )
    return (
        [event for event in events if event["key"] in keys],
        [step for step in steps if step.activity_key in keys],
    )


def _of_keys(host: Explained, keys: set[str]) -> Explained:
    return msgspec.structs.replace(
        host,
        events=[event for event in host.events if event["key"] in keys],
        present=[one for one in host.present if one.key in keys],
    )


def _events(workflow: Workflow | None, hosts: Sequence[Explained]) -> Iterator[dict[str, Any]]:
    """Yields every event with its source: the engine, or a host by its pid."""
    for host in hosts:
        yield from ({"source": "host", "pid": host.pid, **event} for event in host.events)
    if workflow is None:
        return
    yield from _of_engine("", "created", workflow.created_at)
    for step in workflow.activities:
        event = "given_up" if step.status == "failed" else step.status
        if step.completed_at is not None and event in _TEXTS:
            yield from _of_engine(step.activity_key, event, step.completed_at, step.error or "")
    if workflow.status in ENDED:
        event = "completed" if workflow.status == "completed" else "failed"
        yield from _of_engine("", event, workflow.updated_at, workflow.error_message or "")


def _of_engine(key: str, event: str, at: datetime | None, message: str = "") -> Iterator[dict[str, Any]]:
    if at is not None:
        subject = {"activity_id": None, "key": key, "name": None, "process": None}
        words = {"message": message} if message else {}
        yield {"source": "engine", "at": round(at.timestamp(), 3), "event": event, **subject, **words}


def render(document: Mapping[str, Any]) -> list[Text | Table]:
    """Renders the document as text: a headline, a line for each event, and the next step."""
    engine = document["engine"]
    status = document["status"] or "status unknown"
    title = f"{document['definition'] or 'workflow'} {document['workflow_id']}: {status}"
    hosts = ", ".join(f"{host['app']}, pid {host['pid']}" for host in document["hosts"])
    lines = [title, f"engine {engine['url']}; on this machine: {hosts or 'no host remembers it'}"]
    lines += [f"the engine did not tell: {engine['error']}"] if engine["error"] else []
    if document["left_out"]:
        lines.append(f"{counted(document['left_out'], 'older attempt')} left out")
    parts: list[Text | Table] = [Text("\n".join(map(visible, lines)))]
    if document["events"]:
        parts.append(_table(document["events"]))
    if notes := moved_lines(document):
        parts.append(Text("\n".join(notes)))
    prefix = "" if document["next"].startswith(NOTHING) else "Next: "
    parts.append(Text(visible(f"{prefix}{document['next']}"), style="bold"))
    return parts


def _table(events: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=20)
    table.add_column(overflow="fold")
    pids = {event["pid"] for event in events if "pid" in event}
    for event in events:
        where = "engine" if event["source"] == "engine" else f"process {event['process']}"
        if "pid" in event and len(pids) > 1:
            where += f" of {event['pid']}"
        style = _STYLES.get(event["event"], "")
        what = event["key"] or event["name"] or "workflow"  # a host may have truncated a long key
        cells = (_clock(event["at"]), where, visible(what), _description(event))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _description(event: Mapping[str, Any]) -> str:
    text = _TEXTS[event["event"]].format_map(
        {**event, "words": failure_text(event), "nth": _ordinal(event.get("seen") or 1)}
    )
    where = " in an isolate" if event.get("isolate") else ""
    return visible(text.removesuffix(": ") + where)


def _ordinal(number: int) -> str:
    """Returns 1st, 2nd, 3rd, 4th, …, 11th, …, 21st."""
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _clock(at: float) -> str:
    shape = "%H:%M:%S" if time.time() - at < _DAY_S else "%Y-%m-%d %H:%M:%S"
    return f"{time.strftime(shape, time.localtime(at))}.{int(at % 1 * 1000):03}"
