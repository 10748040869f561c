"""Sends what `/metrics` shows to a collector, in a thread of its own, so that it never delays a beat."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import structlog

from flowherd.telemetry.delivery import Delivery
from flowherd.telemetry.wanted import wanted
from flowherd.worker.tasks import start_thread

if TYPE_CHECKING:
    from flowherd.config import WorkerConfig
    from flowherd_supervisor.keeper.metrics import HostMetrics

EVERY_S = 60.0  # OpenTelemetry's own default
LAST_S = 0.5  # for the last export of a host that ends

log = structlog.stdlib.get_logger(__name__)


class MetricsExport:
    """Exports at once, then again and again, and once more at the end; nothing where none is asked for.

    Args:
        metrics: what to send.
        config: names the host.
        started_at: when the host was, in monotonic seconds.

    """

    def __init__(self, metrics: HostMetrics, config: WorkerConfig, started_at: float) -> None:
        self._metrics = metrics
        self._config = config
        self._began_ns = time.time_ns() - int((time.monotonic() - started_at) * 1e9)
        self._ending = threading.Event()
        self._delivery: Delivery | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins, if it is asked for."""
        if wanted(os.environ).metrics:
            self._delivery = Delivery("metrics")
            self._thread = start_thread("otlp", self._run)

    def finish(self, within_s: float) -> None:
        """Sends the last state; waits neither longer nor for a collector that is away."""
        self._ending.set()
        if self._thread is not None and self._delivery is not None and not self._delivery.is_failing:
            self._thread.join(max(min(within_s, LAST_S), 0.0))

    def _run(self) -> None:
        try:
            self._export_until_the_end()
        except Exception as error:  # noqa: BLE001 - whatever a library or a variable of its own is in for
            log.warning("telemetry_not_started", signal="metrics", reason=f"{type(error).__name__}: {error}")

    def _export_until_the_end(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import MetricExportResult  # noqa: PLC0415

        from flowherd.telemetry.resource import resource_of  # noqa: PLC0415 - as above
        from flowherd_supervisor.keeper.otlp import otlp  # noqa: PLC0415 - as above: only where it is asked for

        assert self._delivery is not None
        exporter, resource = OTLPMetricExporter(), resource_of(self._config, "keeper")
        every_s, is_last = _every_s(), False
        while True:
            data = otlp(self._metrics.collect(), resource, self._began_ns, time.time_ns())
            result = exporter.export(data)
            self._delivery.note(is_delivered=result is MetricExportResult.SUCCESS)
            if is_last:
                return
            is_last = self._ending.wait(every_s)


def _every_s() -> float:
    """OpenTelemetry's own variable, in milliseconds."""
    try:
        every_s = int(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")) / 1000
    except ValueError:
        return EVERY_S
    return every_s if every_s > 0 else EVERY_S
