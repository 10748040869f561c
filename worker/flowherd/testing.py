"""Runs one handler without an engine, for tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from flowherd.activities_and_outcomes import Activity, Completed, Failed, Outcome, Usage
from flowherd.client.fake_engine import Call, FakeEngine
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.memory_files import MemoryFiles
from flowherd.sdk.activity_definition import adjusted
from flowherd.sdk.checkpoints import decoded, encoded, reference_of
from flowherd.sdk.registry import Registry
from flowherd.settings.worker_config import WorkerConfig
from flowherd.stock_sdk import adapt_apps
from flowherd.worker.run_without_engine import WithoutEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.sdk.activity_definition import ActivityDefinition

__all__ = ["Call", "FakeEngine", "TestedRun", "make_activity", "run_activity", "run_activity_sync"]

WORKFLOW_ID = str(UUID(int=1))


def make_activity(name: str, parameters: Any = None, *, number: int = 1, **fields: Any) -> Activity:
    """Makes an activity as the engine hands it out; `number` becomes its id, `fields` replace other attributes."""
    made = Activity(
        activity_id=str(UUID(int=number)),
        workflow_id=WORKFLOW_ID,
        key=name or "unnamed",
        name=name,
        worker_type="py-std",
        worker_id="test-worker",
        parameters={} if parameters is None else parameters,
    )
    return msgspec.structs.replace(made, **fields)


@dataclass(frozen=True, slots=True)
class TestedRun:
    """The outcome of one attempt.

    Attributes:
        outcome: `Completed` or `Failed`, as the engine would receive it.
        files: the files that were given or uploaded, by reference.
        streamed: the text sent through `ctx.stream()`.
        checkpoint: the value that the next attempt would get from `ctx.resume()`.

    """

    __test__ = False  # pytest takes names that begin with Test for its own

    outcome: Outcome
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    streamed: str = field(default="", repr=False)
    checkpoint: Any = field(default=None, repr=False)

    @property
    def output(self) -> dict[str, Any]:
        """The output as the engine would store it; AssertionError if the activity failed."""
        assert isinstance(self.outcome, Completed), f"the activity did not complete: {self.outcome}"
        output: dict[str, Any] = json.loads(self.outcome.output)
        return output

    @property
    def failure(self) -> Failed:
        """The failure, with `code`, `message` and `retryable`; AssertionError if the activity completed."""
        assert isinstance(self.outcome, Failed), f"the activity did not fail: {self.outcome}"
        return self.outcome

    @property
    def usage(self) -> tuple[Usage, ...]:
        """Recorded usage, of a success or a failure."""
        return () if not isinstance(self.outcome, Completed | Failed) else self.outcome.usage


class _Streamed:
    """Streams and their outlets in one: keeps the text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def open(self, _activity_id: str) -> _Streamed:
        return self

    def put(self, text: str) -> None:
        self.texts.append(text)

    def end(self, error: str | None) -> None:
        """Nobody listens."""


async def run_activity(
    handler: Any,
    params: Any = None,
    *,
    environment: RunEnvironment | None = None,
    config: WorkerConfig | None = None,
    files: Mapping[str, bytes] | None = None,
    checkpoint: Any = None,
    offload: str | None = None,
    state: Any = None,
    **fields: Any,
) -> TestedRun:
    """Runs one handler as a worker does, without an engine.

    Args:
        handler: a function, decorated or not, an object with `name` and `execute`, or a kruxiaflow activity.
        params: the activity's parameters.
        environment: `RunEnvironment` with the state, the process index and the shutdown signal the handler sees.
        config: `WorkerConfig` with limits, such as `activity_timeout_s` and `cancel_grace_s`.
        files: files that the handler can download, by reference; its uploads are in the result's `files`.
        checkpoint: value stored by an earlier attempt; None for none.
        offload: place to run it, instead of the handler's own. Test offload="process" with "thread" or "loop".
        fields: attributes of the activity, such as `key`, `signal_data`, `timeout_s`.
        state: the handler's `ctx.state`, in place of what the lifespan of its app would yield.

    Returns:
        The outcome. A handler that is cancelled and goes on is not waited for.

    Raises:
        RegistryError: the handler cannot be an activity.

    """
    definition = adjusted(_definition_of(handler), {"offload": offload})
    registry = Registry()
    registry.add(definition)
    config = config or WorkerConfig(worker_id="test")
    activity = make_activity(definition.name, params, **fields)
    kept = str(reference_of(activity))
    memory = MemoryFiles({**(files or {}), **({} if checkpoint is None else {kept: encoded(checkpoint)})})
    access = FileAccess(lambda: memory, asyncio.new_event_loop, max_file_mb=config.max_file_mb)
    streams = _Streamed()
    seen = replace(_around(environment, state), files=access, streams=streams)
    worker = WithoutEngine(registry, config, ThreadPool(1), seen)
    try:
        outcome = await worker.outcome(worker.start(activity))
        left = memory.contents.pop(kept, None)
        last = None if left is None else decoded(left)
        return TestedRun(outcome, memory.contents, "".join(streams.texts), last)
    finally:
        await access.aclose()


def run_activity_sync(handler: Any, params: Any = None, **options: Any) -> TestedRun:
    """Does what `run_activity` does, for tests that are not async."""
    return asyncio.run(run_activity(handler, params, **options))


def _around(environment: RunEnvironment | None, state: Any) -> RunEnvironment:
    """The environment that was given, or one of its own, with the state that was given."""
    around = environment or RunEnvironment()
    return around if state is None else replace(around, state=state)


def _definition_of(handler: Any) -> ActivityDefinition:
    adapted = adapt_apps.registry_of(handler)
    return next(iter(adapted)) if adapted is not None else Registry().register(handler)
