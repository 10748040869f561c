"""Says once that a collector gets nothing, and once that it does again, instead of a line for each try."""

from __future__ import annotations

import logging
import time

import structlog

EXPORTERS = "opentelemetry.exporter.otlp.proto.http"  # whose loggers complain of every try
QUIET_S = 600.0  # between two warnings, however often the collector comes and goes
_MOST_CHARS = 500

log = structlog.stdlib.get_logger(__name__)


class Delivery:
    """What has become of one signal of this process.

    Args:
        signal: "traces" or "metrics".
        is_loud: whether this process is the one that says it for its host.

    Attributes:
        is_failing: the last export came to nothing.

    """

    def __init__(self, signal: str, *, is_loud: bool = True) -> None:
        self.is_failing = False
        self._signal = signal
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
                log.info("telemetry_delivered", signal=self._signal)
            self._has_warned = False
        elif self._is_loud and now >= self._may_warn_at:
            self._may_warn_at, self._has_warned = now + QUIET_S, True
            log.warning(
                "telemetry_undelivered",
                signal=self._signal,
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
