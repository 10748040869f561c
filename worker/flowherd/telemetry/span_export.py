"""Exports the spans of one process in a thread of the library; started after the fork, ended within a time limit."""

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
EXPORTERS = "opentelemetry.exporter.otlp.proto.http"  # its loggers report every failed try
QUIET_S = 600.0  # at least, between two warnings
_MOST_CHARS = 500

log = structlog.stdlib.get_logger(__name__)


class Spans:
    """The process's tracer provider: the app's, if it set one at import, else a new one.

    Args:
        config: the configuration, for the host's name.
        process: this process's index.
        is_loud: True to log when the collector is unreachable.

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
        """Sends ended spans soon, in a thread; while exports fail, leaves retries to the library."""
        if self._delivery.is_failing or (self._flusher is not None and self._flusher.is_alive()):
            return
        self._flusher = start_thread("spans", self._flush)

    def close(self, within_s: float) -> None:
        """Sends ended spans within `within_s` seconds; does not wait when the last export failed."""
        by = time.monotonic() + within_s
        while not self._delivery.is_failing and time.monotonic() < by:
            was_under_way = self._flusher is not None and self._flusher.is_alive()
            self.flush()
            assert self._flusher is not None
            self._flusher.join(max(by - time.monotonic(), 0.0))
            if not was_under_way:
                return  # otherwise the flush may have begun before the last spans ended

    def _flush(self) -> None:
        if hasattr(self._provider, "force_flush"):
            self._provider.force_flush()  # has no time limit of its own: it returns when the exporter does


class _Watched(SpanExporter):
    """An exporter that passes its results to `Delivery`."""

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
    """The state of this process's exports: logs one warning when they fail, and one line when they succeed again.

    Args:
        is_loud: True for the one process of the host that logs warnings.

    Attributes:
        is_failing: True when the last export failed.

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
        """Notes the result of an export."""
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
    """A log handler that keeps the last message."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the message."""
        self.last = record.getMessage()[:_MOST_CHARS]


def resource_of(config: WorkerConfig, process: int) -> Resource:
    """Returns the attributes that identify this process; those in OpenTelemetry's variables take precedence.

    Args:
        config: the configuration, for the host's name.
        process: this process's index.

    """
    ours: dict[str, str | int] = {
        "service.name": "flowherd",
        "service.instance.id": f"{config.worker_id}-{os.getpid()}",
        "process.pid": os.getpid(),
        "flowherd.process": process,
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in given})
