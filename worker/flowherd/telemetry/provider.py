"""Gets spans out of one process, in a thread of the library: made after the fork, ended within a bound."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowherd.telemetry.delivery import Delivery
from flowherd.telemetry.resource import SCOPE, resource_of
from flowherd.worker.tasks import start_thread

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from flowherd.config import WorkerConfig


class Spans:
    """The process's tracer provider; an app that has set one while it was imported keeps it.

    Args:
        config: names the host.
        process: this process's number, or what it is instead.
        is_loud: whether it says that the collector is away.

    """

    def __init__(self, config: WorkerConfig, process: int | str, *, is_loud: bool) -> None:
        self._delivery = Delivery("traces", is_loud=is_loud)
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
