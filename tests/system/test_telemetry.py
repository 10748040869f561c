"""A running host's spans: one for each activity, around the handler's own, wherever it runs."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from collector_kit import running_collector
from harness import Engine, Host, running_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collector_kit import Collector

APP = "traced_app:registry"


def told(url: str, **more: str) -> dict[str, str]:
    """Returns the variables that export everything to a collector soon."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50", **more}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture
def start(engine: Engine, tmp_path: Path) -> Iterator[Any]:
    """Starts one process of the traced app with these variables."""
    with ExitStack() as stack:

        def begin(env: dict[str, str], *flags: str) -> Host:
            host = running_host(tmp_path, APP, "-p", "1", *flags, url=engine.url, env=env)
            return stack.enter_context(host).ready(1)

        yield begin


PLACES = {"on_loop": "loop", "in_thread": "thread", "in_isolate": "process", "in_isolate_async": "process"}


def test_the_spans_of_a_handler_are_children_of_its_activity_s(
    engine: Engine, collector: Collector, start: Any
) -> None:
    """A span per activity with the engine's ids, its context in threads and isolates."""
    workflows = {name: engine.submit(name, 1, x=1)[0] for name in PLACES}
    host = start(told(collector.url))
    for name, offload in PLACES.items():
        span, inside = collector.one(f"process {name}"), collector.one(f"inside {name}")
        assert (span.kind, span.parent_id, span.error) == ("CONSUMER", "", "")
        assert (inside.trace_id, inside.parent_id) == (span.trace_id, span.span_id)
        expected = {
            "kruxiaflow.activity.name": name,
            "kruxiaflow.activity.key": "step",
            "kruxiaflow.workflow.id": workflows[name],
            "kruxiaflow.outcome": "completed",
            "flowherd.process": 0,
            "flowherd.offload": offload,
        }
        assert expected.items() <= span.attributes.items()
        assert span.attributes["kruxiaflow.activity.id"] in engine.claims_per_activity()
        assert span.resource["process.pid"] == host.children()[0]
        assert (inside.resource["process.pid"] == span.resource["process.pid"]) == (offload != "process")
        assert span.resource["service.name"] == "flowherd"
    assert len({span.trace_id for span in collector.spans}) == len(PLACES)
    assert host.log("preload_unsafe") == []


def test_what_a_handler_raises_is_in_its_span_wherever_it_runs(
    engine: Engine, collector: Collector, start: Any
) -> None:
    """An isolate's traceback comes to the worker's span; without retries the error is the outcome."""
    for name in ("refuse_on_loop", "refuse_in_isolate"):
        engine.submit(name, 1, word="entry")
    start(told(collector.url))
    for name in ("refuse_on_loop", "refuse_in_isolate"):
        span = collector.one(f"process {name}")
        assert (span.error, span.attributes["error.type"]) == ("no entry", "REFUSED")
        [(event, exception)] = span.events
        assert (event, exception["exception.type"]) == ("exception", "ActivityError")
        assert "in _refuse" in exception["exception.stacktrace"]


def test_an_isolate_that_dies_and_a_copy_that_is_forked_leave_one_span_each(
    engine: Engine, collector: Collector, start: Any
) -> None:
    """The span is the worker's, whatever becomes of the isolate; and a copy of the worker must not end it again."""
    engine.submit("kill_itself", 1, settings={"retry": {"max_attempts": 1}})
    engine.submit("fork_a_copy", 1)
    host = start(told(collector.url))
    died, copied = collector.one("process kill_itself"), collector.one("process fork_a_copy")
    assert (died.attributes["error.type"], died.attributes["kruxiaflow.outcome"]) == ("PROCESS_DIED", "died")
    assert "SIGKILL" in died.error
    assert collector.one("inside fork_a_copy").parent_id == copied.span_id
    host.signal(signal.SIGTERM)
    host.wait()
    assert len(collector.named("process fork_a_copy")) == 1


def test_a_handler_past_its_limit_has_an_event_and_an_error(
    engine: Engine, collector: Collector, start: Any
) -> None:
    """And a retry would be a span of its own."""
    engine.submit("too_slow", 1, settings={"retry": {"max_attempts": 1}})
    start(told(collector.url))
    span = collector.one("process too_slow")
    assert [event for event, _ in span.events] == ["time limit"]
    assert (span.attributes["error.type"], span.attributes["kruxiaflow.outcome"]) == ("TIMEOUT", "failed")


def test_what_ended_last_is_sent_by_a_drain_and_no_metrics_are(
    engine: Engine, collector: Collector, start: Any
) -> None:
    """The library's delay is a minute here, so only the drain sends it. Metrics are scraped, never sent."""
    engine.submit("on_loop", 2, x=1)
    host = start(told(collector.url, OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRIC_EXPORT_INTERVAL="50"))
    engine.wait_for("complete", 2)
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert len(collector.named("process on_loop", 2)) == 2
    assert collector.paths == {"/v1/traces"}


@pytest.mark.parametrize("answers", [True, False])
def test_a_collector_that_refuses_or_is_silent_changes_nothing(
    engine: Engine, start: Any, *, answers: bool
) -> None:
    """Work is done, the drain is clean, no process is killed, and the log has at most one line."""
    with running_collector(answers=answers) as collector:
        collector.status = 404
        for name in PLACES:
            engine.submit(name, 3, x=1)
        host = start(told(collector.url, OTEL_EXPORTER_OTLP_TIMEOUT="600"))
        engine.wait_for("complete", 12)
        collector.wait_for(lambda: collector.requests >= 1, "a try")
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        assert host.log("process_killed") == host.log("keeper_killed") == []
        warned = [line["signal"] for line in host.log("telemetry_undelivered")]
        assert warned == (["traces"] if answers else [])


def test_an_endpoint_without_the_extra_is_one_warning_with_the_remedy(
    engine: Engine, start: Any, tmp_path: Path
) -> None:
    """It runs, untraced; `opentelemetry` is hidden here by a module that has nothing in it."""
    (tmp_path / "opentelemetry.py").write_text("class trace: get_tracer = staticmethod(lambda name: None)")
    host = start(told("http://127.0.0.1:9", PYTHONPATH=str(tmp_path)))
    [line] = host.log("unwise_setting")
    assert "pip install 'flowherd[otel]'" in line["note"]
    assert engine.submit("too_slow", 1)
    engine.wait_for("claim", 1)
