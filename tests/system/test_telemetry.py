"""A running host's spans: one for each activity, around the handler's own, wherever it runs; and what is off."""

from __future__ import annotations

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
    """The variables that send everything to a collector, soon."""
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
    """Issue Operate: a span per activity with the engine's ids, its context in threads and isolates."""
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
