"""Gets spans out of one process, in a thread of the library: made after the fork, ended within a bound."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowherd import __version__
from flowherd.background import start_thread

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from flowherd.settings.worker_config import WorkerConfig

SCOPE = ("flowherd", __version__)
EXPORTERS = "opentelemetry.exporter.otlp.proto.http"  # whose loggers complain of every try
QUIET_S = 600.0  # between two warnings, however often the collector comes and goes
_MOST_CHARS = 500

log = structlog.stdlib.get_logger(__name__)


class Spans:
    """The process's tracer provider; an app that has set one while it was imported keeps it.

    Args:
        config: names the host.
        process: this process's number.
        is_loud: whether it says that the collector is away.

    """

    def __init__(self, config: WorkerConfig, process: int, *, is_loud: bool) -> None:
        self._delivery = Delivery(is_loud=is_loud)
        self._flusher: threading.Thread | None = None
        current = trace.get_tracer_provider()
        if isinstance(current, trace.ProxyTracerProvider):
            current = TracerProvider(resource=resource_of(config, process), shutdown_on_exit=False)
            current.add_span_processor(BatchSpanProcessor(_Watched(OTLPSpanExporter(), self._delivery)))
            trace.set_tracer_provider(current)
        self._provider: Any = current
        self.tracer = trace.get_tracer(*SCOPE)

    def flush(self) -> None:
        """Sends what has ended, soon and elsewhere; a collector that is away is left to the library's own pace."""
        if self._delivery.is_failing or (self._flusher is not None and self._flusher.is_alive()):
            return
        self._flusher = start_thread("spans", self._flush)

    def close(self, within_s: float) -> None:
        """Sends what has ended within this time; waits for nothing if the last try came to nothing."""
        by = time.monotonic() + within_s
        while not self._delivery.is_failing and time.monotonic() < by:
            was_under_way = self._flusher is not None and self._flusher.is_alive()
            self.flush()
            assert self._flusher is not None
            self._flusher.join(max(by - time.monotonic(), 0.0))
            if not was_under_way:
                return  # else it may have begun before the last spans ended

    def _flush(self) -> None:
        if hasattr(self._provider, "force_flush"):
            self._provider.force_flush()  # whose own bound is none: it returns when the exporter does


class _Watched(SpanExporter):
    """An exporter whose results are noted; it never raises."""

    def __init__(self, exporter: SpanExporter, delivery: Delivery) -> None:
        self._exporter = exporter
        self._delivery = delivery

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch."""
        result = self._exporter.export(spans)
        self._delivery.note(is_delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Ends the exporter."""
        self._exporter.shutdown()


class Delivery:
    """The state of this process's exports: one warning when spans do not get out, one line when they do again.

    Args:
        is_loud: this process is the one of its host that says it.

    Attributes:
        is_failing: the last export came to nothing.

    """

    def __init__(self, *, is_loud: bool = True) -> None:
        self.is_failing = False
        self._is_loud = is_loud
        self._may_warn_at = 0.0
        self._has_warned = False
        self._complaints = _Complaints()
        exporters = logging.getLogger(EXPORTERS)
        exporters.handlers[:] = [self._complaints]
        exporters.propagate = False

    def note(self, *, is_delivered: bool) -> None:
        """An export has ended."""
        self.is_failing = not is_delivered
        now = time.monotonic()
        if is_delivered:
            if self._has_warned:
                log.info("telemetry_delivered", signal="traces")
            self._has_warned = False
        elif self._is_loud and now >= self._may_warn_at:
            self._may_warn_at, self._has_warned = now + QUIET_S, True
            log.warning(
                "telemetry_undelivered",
                signal="traces",
                reason=self._complaints.last or "the exporter does not say",
                note="the work goes on without it",
            )


class _Complaints(logging.Handler):
    """Keeps the last one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Notes it."""
        self.last = record.getMessage()[:_MOST_CHARS]


def resource_of(config: WorkerConfig, process: int) -> Resource:
    """The attributes by which a collector knows this process; OpenTelemetry's variables go before them.

    Args:
        config: names the host.
        process: its number.

    """
    ours: dict[str, str | int] = {
        "service.name": "flowherd",
        "service.instance.id": f"{config.worker_id}-{os.getpid()}",
        "process.pid": os.getpid(),
        "flowherd.process": process,
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})
