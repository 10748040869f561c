"""When telemetry is on, what is in its way, and how little is said of a collector that is away."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from collector_kit import running_collector

from flowherd.telemetry.destination import Destination, destination_of
from flowherd.telemetry.span_export import EXPORTERS, QUIET_S, Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "http://collector:4318"
ENDPOINT, LOCAL = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"


@pytest.mark.parametrize(
    ("environ", "traces"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "me"}, ""),
        ({ENDPOINT: URL}, URL),
        ({ENDPOINT: " "}, ""),
        ({ENDPOINT: URL, "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({ENDPOINT: URL, "OTEL_SDK_DISABLED": "false"}, URL),
        ({ENDPOINT: URL, "OTEL_TRACES_EXPORTER": "None"}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, LOCAL),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, URL),
        ({ENDPOINT: "https://me:canary@host/x"}, "https://host/x"),
        ({ENDPOINT: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, URL),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, ""),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": URL}, ""),
    ],
)
def test_an_endpoint_or_the_exporter_otlp_switches_it_on(environ: dict[str, str], traces: str) -> None:
    """OpenTelemetry's own variables, as its specification has them; those for metrics are the app's alone."""
    assert destination_of(environ, lambda: True) == Destination(traces)


@pytest.mark.parametrize(
    ("environ", "traces", "said"),
    [
        ({ENDPOINT: URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "http/protobuf"),
        ({ENDPOINT: URL, "OTEL_TRACES_EXPORTER": "console"}, "", "otlp and none"),
        ({ENDPOINT: "http://[collector"}, "", "is no URL"),
        ({ENDPOINT: URL, "OTEL_TRACES_EXPORTER": "console,otlp"}, URL, "otlp and none"),
    ],
)
def test_what_is_asked_for_and_not_done_is_said_once(environ: dict[str, str], traces: str, said: str) -> None:
    """One sentence with the remedy."""
    found = destination_of(environ, lambda: True)
    assert found.traces == traces
    [obstacle] = found.obstacles
    assert said in obstacle


@pytest.mark.parametrize("name", [ENDPOINT, "OTEL_TRACES_EXPORTER"])
def test_an_endpoint_without_the_extra_names_the_remedy(name: str) -> None:
    """And switches nothing on."""
    found = destination_of({name: "otlp"}, lambda: False)
    assert found.traces == ""
    [obstacle] = found.obstacles
    assert obstacle.startswith(name)
    assert "pip install 'flowherd[otel]'" in obstacle


def test_the_extra_is_not_looked_for_without_telemetry_settings() -> None:
    """Looking means importing a part of it."""

    def look() -> bool:
        raise AssertionError("looked")

    assert destination_of({}, look) == Destination()


@pytest.fixture
def _own_loggers() -> Iterator[None]:
    """The exporters' logger as it was."""
    logger = logging.getLogger(EXPORTERS)
    before = logger.handlers[:], logger.propagate
    yield
    logger.handlers[:], logger.propagate = before


@pytest.mark.usefixtures("_own_loggers")
def test_a_collector_that_is_away_is_one_warning_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    """And one line more when it is back; the exporter's own lines, one for each try, are not."""
    caplog.set_level(logging.INFO)
    it = Delivery()
    for number in range(3):
        logging.getLogger(f"{EXPORTERS}.trace_exporter").error("refused %d", number)
        it.note(is_delivered=False)
    assert it.is_failing
    it.note(is_delivered=True)
    it.note(is_delivered=True)
    it.note(is_delivered=False)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split("'")[1] for line in said] == ["telemetry_undelivered", "telemetry_delivered"]
    assert "refused 0" in said[0]
    assert QUIET_S >= 60


@pytest.mark.usefixtures("_own_loggers")
def test_only_one_process_of_a_host_says_it(caplog: pytest.LogCaptureFixture) -> None:
    """A host of 64 processes has one collector."""
    it = Delivery(is_loud=False)
    it.note(is_delivered=False)
    it.note(is_delivered=True)
    assert caplog.records == []


def run(program: str, **environ: str) -> None:
    """A program of its own: what is set for a whole process cannot be taken back."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr


_OFF = """
import sys
from flowherd.settings.worker_config import WorkerConfig
from flowherd.process.rehearsal import warm_up
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing
import flowherd.process.worker_process, flowherd.process.standalone, flowherd.process.threaded_process
import flowherd.isolates.inside.main, flowherd_supervisor.shell.host_setup, flowherd_supervisor.keeper.keeper_process
warm_up()
tracing = begin_tracing(WorkerConfig(), 0, is_loud=True)
end_tracing(tracing)
assert tracing is None
found = [name for name in sys.modules if name.partition(".")[0] in {"opentelemetry", "google", "requests"}]
assert not found, found
"""


@pytest.mark.parametrize("environ", [{}, {ENDPOINT: URL, "OTEL_SDK_DISABLED": "true"}])
def test_off_is_not_imported_at_all(environ: dict[str, str]) -> None:
    """Unused telemetry costs neither time nor memory."""
    run(_OFF, **environ)


_BEFORE_THE_FORK = """
import os, sys
from flowherd.process.rehearsal import warm_up
warm_up()
assert "opentelemetry.sdk.trace" in sys.modules
from opentelemetry import trace
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
assert len(os.listdir("/proc/self/task")) == 1
"""


def test_before_the_fork_it_is_imported_but_has_neither_thread_nor_provider() -> None:
    """Its thread would not survive the fork, and its import would cost each process half a second."""
    run(_BEFORE_THE_FORK, **{ENDPOINT: URL})


_APPS_OWN = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from flowherd.settings.worker_config import WorkerConfig
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing
own = TracerProvider(shutdown_on_exit=False)
trace.set_tracer_provider(own)
tracing = begin_tracing(WorkerConfig(), 0, is_loud=True)
assert trace.get_tracer_provider() is own
assert len(os.listdir("/proc/self/task")) == 1
end_tracing(tracing)
"""


def test_an_app_that_has_set_a_provider_keeps_it() -> None:
    """Two would send everything twice, or the library refuses the second with a warning of its own."""
    run(_APPS_OWN, **{ENDPOINT: URL})


_BROKEN = """
import sys
from flowherd.settings.worker_config import WorkerConfig
from flowherd import logs
from flowherd.telemetry.begin_and_end_tracing import begin_tracing
logs.setup("info", "json")
assert begin_tracing(WorkerConfig(), 0, is_loud=True) is None
"""


def test_a_variable_that_the_library_refuses_costs_the_spans_and_not_the_worker() -> None:
    """The reason is one line."""
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN],
        env={ENDPOINT: URL, "OTEL_BSP_MAX_QUEUE_SIZE": "0"},
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("telemetry_not_started") == 1


_SENDS = """
import os, sys, time
from flowherd.settings.worker_config import WorkerConfig
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing
tracing = begin_tracing(WorkerConfig(), 5, is_loud=False)
from opentelemetry import trace
with trace.get_tracer("app").start_as_current_span("last words"):
    pass
end_tracing(tracing, 30.0)
os._exit(0)
"""


def test_what_has_ended_is_sent_before_a_process_ends() -> None:
    """The library's own delay is 5 s; a process that ends has no such time. What its variables say goes first."""
    with running_collector() as collector:
        run(
            _SENDS,
            **{
                ENDPOINT: collector.url,
                "OTEL_SERVICE_NAME": "mine",
                "OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            },
        )
        [span] = collector.spans
    assert (span.name, span.resource["service.name"], span.resource["flowherd.process"]) == (
        "last words", "mine", 5,
    )  # fmt: skip
    assert collector.headers[0]["x-key"] == "canary"


def test_a_collector_that_never_answers_delays_the_end_by_the_bound_alone() -> None:
    """The library would wait for 10 s, and try again: the program's own limit is less."""
    with running_collector(answers=False) as collector:
        run(_SENDS, **{ENDPOINT: collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"})
        assert collector.requests == 1
