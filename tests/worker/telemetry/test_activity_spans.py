"""The span of an attempt: what it is told, what it is named by, and what is below it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from pydantic import SecretStr  # noqa: TC002 - the binding reads it
from runner_kit import CancelReason, Runner

from flowherd import ActivityError, Registry, activity
from flowherd.activities_and_outcomes import Completed, Died, Lost
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.telemetry.activity_spans import Tracing
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from runner_kit import Run

CEILING_S = 10.0


class Spans:
    """`flowherd.telemetry.span_export.Spans` that keeps what it gets."""

    def __init__(self) -> None:
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.tracer = self.provider.get_tracer("flowherd")
        self.closed_within_s: list[float] = []

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self, within_s: float) -> None:
        self.closed_within_s.append(within_s)


class Bench:
    """A traced runner."""

    def __init__(self, *handlers: Any, **settings: Any) -> None:
        self.spans = Spans()
        self.tracing = Tracing(self.spans, 3)  # type: ignore[arg-type]
        config = WorkerConfig(worker_id="test", **{"cancel_grace_s": 60.0, **settings})
        environment = RunEnvironment(tracing=self.tracing)
        self.runner = Runner(Registry.of(handlers), config, ThreadPool(4), environment)

    def start(self, name: str, parameters: Any = None, **fields: Any) -> Run:
        return self.runner.start(make_activity(name, parameters, **fields))

    async def run(self, name: str, parameters: Any = None, **fields: Any) -> ReadableSpan:
        run = self.start(name, parameters, **fields)
        await asyncio.wait_for(run.ended(), CEILING_S)
        return self.named(f"process {name}")

    def named(self, name: str) -> ReadableSpan:
        [span] = [one for one in self.spans.kept.get_finished_spans() if one.name == name]
        return span


def events(span: ReadableSpan) -> dict[str, Any]:
    return {event.name: dict(event.attributes or {}) for event in span.events}


@pytest.mark.parametrize("options", [{}, {"offload": "thread"}])
async def test_the_span_is_current_while_the_handler_runs_and_only_there(options: dict[str, str]) -> None:
    """What the handler traces is its child; what the worker does meanwhile is not."""
    seen = []

    @activity(**options)
    async def work() -> None:
        await asyncio.sleep(0)
        seen.append(trace.get_current_span())

    bench = Bench(work)
    run = bench.start("work")
    assert not trace.get_current_span().get_span_context().is_valid
    await asyncio.wait_for(run.ended(), CEILING_S)
    span = bench.named("process work")
    assert [one.get_span_context() for one in seen] == [span.context]
    assert span.parent is None
    assert span.attributes is not None
    assert span.attributes["flowherd.process"] == 3


async def test_a_plain_handler_has_it_in_its_thread() -> None:
    """Also in a thread that the handler begins with a copy of its context."""
    seen = []

    @activity
    def work() -> None:
        seen.append((threading.get_ident(), trace.get_current_span().get_span_context()))

    bench = Bench(work)
    span = await bench.run("work")
    [(thread, context)] = seen
    assert context == span.context
    assert thread != threading.get_ident()


async def test_a_failure_is_an_error_with_its_code_and_the_exception_without_secrets() -> None:
    """Faults A12 holds for spans too: they leave the host."""

    @activity
    async def work(password: SecretStr) -> None:
        raise ActivityError(f"refused {password.get_secret_value()}", code="REFUSED", retryable=False)

    span = await Bench(work).run("work", {"password": "canary-7"})
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "REFUSED"
    assert span.attributes["kruxiaflow.outcome"] == "failed"
    assert span.attributes["kruxiaflow.retryable"] is False
    exception = events(span)["exception"]
    assert exception["exception.type"] == "ActivityError"
    assert "in work" in exception["exception.stacktrace"]
    assert "canary-7" not in f"{span.status.description} {exception}"


async def test_a_span_shows_no_parameter_with_a_telling_name() -> None:
    """Faults N19."""

    @activity
    def work(api_key: str) -> None:
        raise ValueError(f"refused {api_key}")

    span = await Bench(work).run("work", {"api_key": "canary-7"})
    exception = events(span)["exception"]
    assert (span.status.description, exception["exception.message"]) == ("refused ***", "refused ***")
    assert "canary-7" not in f"{exception} {span.attributes}"


async def test_a_success_is_no_error_and_says_so() -> None:
    """As OpenTelemetry wants it: the status is the app's to set."""

    @activity
    async def work() -> None: ...

    span = await Bench(work).run("work", activity_id="a-9", workflow_id="w-9", key="step")
    assert span.status.status_code is StatusCode.UNSET
    expected = {
        "kruxiaflow.activity.id": "a-9",
        "kruxiaflow.workflow.id": "w-9",
        "kruxiaflow.activity.key": "step",
        "messaging.message.id": "a-9",
        "kruxiaflow.outcome": "completed",
        "flowherd.offload": "loop",
    }
    assert expected.items() <= (span.attributes or {}).items()


@pytest.mark.parametrize(
    ("reason", "event", "code"),
    [
        (CancelReason.LEASE_LOST, "lease lost", "LEASE_LOST"),
        (CancelReason.SHUTDOWN, "shutdown", "WORKER_SHUTDOWN"),
        (CancelReason.TIMEOUT, "time limit", "TIMEOUT"),
    ],
)
async def test_a_handler_that_is_told_to_stop_has_an_event_and_the_reason_as_its_error(
    reason: CancelReason, event: str, code: str
) -> None:
    """The span must have the reason of its end."""
    begun = asyncio.Event()

    @activity
    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    bench = Bench(work)
    run = bench.start("work")
    await begun.wait()
    run.cancel(reason)
    await asyncio.wait_for(run.ended(), CEILING_S)
    span = bench.named("process work")
    assert events(span) == {event: {}}
    assert (span.attributes or {})["error.type"] == code


async def test_what_still_runs_when_the_worker_ends_is_sent_as_given_back() -> None:
    """Otherwise a handler that does not end, which is looked for, would have no span."""
    begun, end = asyncio.Event(), asyncio.Event()

    @activity
    async def work() -> None:
        begun.set()
        await end.wait()

    bench = Bench(work)
    run = bench.start("work")
    await begun.wait()
    bench.tracing.close(0.5)
    span = bench.named("process work")
    assert (span.attributes or {})["error.type"] == "WORKER_SHUTDOWN"
    assert bench.spans.closed_within_s == [0.5]
    end.set()
    await asyncio.wait_for(run.ended(), CEILING_S)
    assert len(bench.spans.kept.get_finished_spans()) == 1


@pytest.mark.parametrize(
    ("outcome", "code"), [(Died("was killed"), "PROCESS_DIED"), (Lost("gone"), "LEASE_LOST")]
)
async def test_other_ends_are_errors_too(outcome: Any, code: str) -> None:
    """The death of an isolate, and a lost lease."""

    @activity
    async def work() -> None: ...

    bench = Bench(work)
    run = bench.start("work")
    performer = bench.runner.worker.performer
    assert performer.begin(run.attempt)
    if isinstance(outcome, Died):
        performer.finished(run.attempt, outcome)
    else:
        run.cancel(CancelReason.LEASE_LOST)
        await run.ended()
    span = bench.named("process work")
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, code)


async def test_halves_of_characters_in_names_and_words_do_not_cost_the_batch() -> None:
    """What is no text cannot be sent, nor can anything beside it."""

    @activity(name="w\ud800")
    async def work() -> None:
        raise ValueError("\udfff")

    bench = Bench(work)
    run = bench.start("w\ud800")
    await asyncio.wait_for(run.ended(), CEILING_S)
    [span] = bench.spans.kept.get_finished_spans()
    assert span.name == "process w?"
    assert str(span.to_json()).encode()


class Rude(SpanProcessor):
    """A processor of an app's own that raises."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if span.name.endswith("early"):
            raise RuntimeError("early")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("late")


@pytest.mark.parametrize("name", ["early", "late"])
async def test_a_processor_that_raises_costs_the_span_and_not_the_activity(name: str) -> None:
    """It stands where a handler ends: what it raises must not keep the slot."""

    @activity(name=name)
    async def work() -> int:
        return 1

    bench = Bench(work)
    bench.spans.provider.add_span_processor(Rude())
    run = bench.start(name)
    await asyncio.wait_for(run.ended(), CEILING_S)
    assert await run.outcome() == Completed(b'{"result":1}')


def test_a_carrier_is_continued_in_another_process() -> None:
    """W3C trace context, as any program reads it."""
    bench = Bench()
    with bench.tracing.continuing({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}):
        context = trace.get_current_span().get_span_context()
    assert (context.trace_id, context.span_id) == (int("a" * 32, 16), int("b" * 16, 16))
    assert not trace.get_current_span().get_span_context().is_valid
