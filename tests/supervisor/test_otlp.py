"""Metrics over OTLP: the page's names, units and numbers, and nothing that is not on it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from collector_kit import labels_of, running_collector
from prometheus_client.parser import text_string_to_metric_families

from flowherd.ledger import Cell, Ledger, RecordWriter, Timing
from flowherd.link.messages import SupervisorState
from flowherd.settings.worker_config import WorkerConfig
from flowherd.telemetry.delivery import EXPORTERS
from flowherd_supervisor.keeper import export
from flowherd_supervisor.keeper.export import MetricsExport
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from collector_kit import Collector, Metric


class Host:
    """A ledger in which two processes have counted, its page, and what exports it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str, **more: str) -> None:
        for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **more}.items():
            monkeypatch.setenv(name, value)
        ledger = Ledger(processes=2, records=8)
        self.started_at = time.monotonic() - 12.0
        board = StatusBoard(ledger, "http://engine:8080", "0.1.0", 4710, self.started_at)
        board.supervisor = SupervisorState("running", 2, 8, {}, {0: {"signal": 2}})
        for index in range(2):
            segment = ledger.free_segment()
            assert segment is not None
            segment.open(index=index, incarnation=1, now=time.monotonic())
            RecordWriter(segment)
            segment.add(Cell.COMPLETED, 3 + index)
            for took_s in (0.003, 0.2, 5000.0):
                segment.count(Timing.RUN, took_s)
        self.metrics = HostMetrics(ledger, board)
        self.export = MetricsExport(self.metrics, WorkerConfig(worker_id="h-1"), self.started_at)

    def page(self) -> dict[str, Any]:
        """The families of the page by the names that stand behind TYPE."""
        text = self.metrics.page().decode()
        return {
            f"{family.name}_total" if family.type == "counter" else family.name: family
            for family in text_string_to_metric_families(text)
            if family.samples
        }


def sent(collector: Collector) -> dict[str, Metric]:
    return {metric.name: metric for metric in collector.wait_for(lambda: collector.metrics, "metrics")}


@pytest.fixture
def _own_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters' logger is put back by what sets it."""
    logger = logging.getLogger(EXPORTERS)
    monkeypatch.setattr(logger, "handlers", logger.handlers[:])
    monkeypatch.setattr(logger, "propagate", logger.propagate)


pytestmark = pytest.mark.usefixtures("_own_exporters")


def test_every_metric_of_the_page_arrives_with_its_name_its_kind_and_its_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issue Operate: metrics over OTLP. A dashboard or an alert of one serves the other."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url)
        host.export.start()
        found, page = sent(collector), host.page()
        host.export.finish(10.0)
    assert found.keys() == page.keys()
    assert len(found) > 20
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    assert {name: metric.kind for name, metric in found.items()} == {
        name: kinds[family.type] for name, family in page.items()
    }
    completed = {
        labels_of(point)["process"]: point.as_double
        for point in found["flowherd_activities_total"].points
        if labels_of(point)["outcome"] == "completed"
    }
    assert completed == {"0": 3.0, "1": 4.0}
    [restarts] = found["flowherd_process_restarts_total"].points
    assert (labels_of(restarts), restarts.as_double) == ({"process": "0", "cause": "signal"}, 2.0)
    began_s = restarts.start_time_unix_nano / 1e9
    assert began_s == pytest.approx(time.time() - (time.monotonic() - host.started_at), abs=1.0)


def test_histograms_keep_their_buckets_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's buckets are cumulative, OpenTelemetry's are not."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url)
        host.export.start()
        point = sent(collector)["flowherd_activity_run_seconds"].points[1]
        family = host.page()["flowherd_activity_run_seconds"]
        host.export.finish(10.0)
    samples = [sample for sample in family.samples if sample.labels["process"] == "1"]
    cumulative = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    sums = [sum(point.bucket_counts[: end + 1]) for end in range(len(point.bucket_counts))]
    assert (sums, point.count) == (cumulative, 3)
    assert len(point.explicit_bounds) == len(point.bucket_counts) - 1
    assert point.sum == pytest.approx(5000.203, rel=1e-3)
    assert not point.HasField("min")


def test_the_unit_is_what_the_name_ends_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that appends units to names must not append them twice."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url)
        host.export.start()
        units = {name: metric.unit for name, metric in sent(collector).items()}
        host.export.finish(10.0)
    assert units["flowherd_activity_run_seconds"] == "s"
    assert units["flowherd_loop_blocked_seconds_total"] == "s"
    assert units["flowherd_process_resident_memory_bytes"] == "By"
    assert units["flowherd_slots"] == ""


def test_the_last_state_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval is a minute; a host that has ended would stay ready on somebody's screen."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url)
        host.export.start()
        sent(collector)
        host.export.finish(10.0)
        assert collector.wait_for(lambda: collector.requests, "requests") == 2


def test_it_is_sent_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At OpenTelemetry's own interval."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url, OTEL_METRIC_EXPORT_INTERVAL="20")
        host.export.start()
        collector.wait_for(lambda: collector.requests >= 4, "4 exports")
        host.export.finish(10.0)


@pytest.mark.parametrize(
    ("value", "every_s"), [("", 60.0), ("1500", 1.5), ("soon", 60.0), ("0", 60.0), ("-1", 60.0)]
)
def test_an_interval_that_makes_no_sense_is_the_default(
    monkeypatch: pytest.MonkeyPatch, value: str, every_s: float
) -> None:
    """As the library takes it."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", value)
    assert export._every_s() == every_s


def test_a_collector_that_refuses_is_one_warning_with_its_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the second try, with which the host ends, it is known."""
    with running_collector() as collector:
        collector.status = 404
        host = Host(monkeypatch, collector.url)
        host.export.start()
        assert host.export._delivery is not None
        collector.wait_for(lambda: collector.requests, "a try")
        host.export.finish(10.0)
        host.export._thread.join(10.0)
    assert ["telemetry_undelivered" in record.getMessage() for record in caplog.records] == [True]
    assert "404" in caplog.text


def test_nothing_is_sent_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces alone are a choice."""
    with running_collector() as collector:
        host = Host(monkeypatch, collector.url, OTEL_METRICS_EXPORTER="none")
        host.export.start()
        host.export.finish(10.0)
        assert host.export._thread is None
        assert collector.requests == 0
