"""A span for each activity, current while its handler runs; an error in tracing never affects the activity."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flowherd.activities_and_outcomes import Completed, Died, Lost
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span

    from flowherd.activities_and_outcomes import Activity, Outcome
    from flowherd.sdk.run_state import RunState
    from flowherd.telemetry.span_export import Spans

_EVENTS = {
    CancelReason.TIMEOUT: "time limit",
    CancelReason.LEASE_LOST: "lease lost",
    CancelReason.SHUTDOWN: "shutdown",
}
_MOST_CHARS = 16_000  # of a traceback

log = structlog.stdlib.get_logger(__name__)
_w3c = TraceContextTextMapPropagator()


class Tracing:
    """`flowherd.execution.run_environment.Tracing` by OpenTelemetry; created after the fork, once per process.

    Args:
        spans: creates and sends spans.
        process: this process's index.

    """

    def __init__(self, spans: Spans, process: int) -> None:
        self._spans = spans
        self._process = process
        self._open: set[AttemptSpan] = set()

    @contextlib.contextmanager
    def around(self, state: RunState, offload: str) -> Iterator[None]:
        """See `Tracing.around`."""
        activity = state.activity
        span: Span = INVALID_SPAN
        with _contained():
            span = self._spans.tracer.start_span(
                f"process {_text(activity.name)}",
                context=Context(),
                kind=SpanKind.CONSUMER,
                attributes={
                    **_named(activity),
                    "flowherd.process": self._process,
                    "flowherd.offload": offload,
                },
            )
            state.trace = AttemptSpan(span, self._open)
        token = attach(set_span_in_context(span))
        try:
            yield
        finally:
            detach(token)

    @contextlib.contextmanager
    def continuing(self, carrier: Mapping[str, str]) -> Iterator[None]:
        """See `Tracing.continuing`."""
        token = attach(_w3c.extract(carrier, Context()))
        try:
            yield
        finally:
            detach(token)

    def flush(self) -> None:
        """See `Tracing.flush`."""
        self._spans.flush()

    def close(self, within_s: float) -> None:
        """See `Tracing.close`."""
        for left in list(self._open):
            left.ended()
        self._spans.close(within_s)


class AttemptSpan:
    """`flowherd.execution.run_environment.Trace`: the span of one attempt; callable from any thread.

    Args:
        span: a span that has begun.
        all_open: the set of spans that have not ended.

    """

    __slots__ = ("_all_open", "_is_settled", "_span")

    def __init__(self, span: Span, all_open: set[AttemptSpan]) -> None:
        self._span = span
        self._is_settled = False
        self._all_open = all_open
        all_open.add(self)

    def carrier(self) -> dict[str, str]:
        """See `Trace.carrier`."""
        carrier: dict[str, str] = {}
        _w3c.inject(carrier, set_span_in_context(self._span, Context()))
        return carrier

    def told_to_stop(self, reason: CancelReason) -> None:
        """See `Trace.told_to_stop`."""
        with _contained():
            self._span.add_event(_EVENTS[reason])

    def settled(self, outcome: Outcome) -> None:
        """See `Trace.settled`."""
        self._is_settled = True
        with _contained():
            match outcome:
                case Completed():
                    self._span.set_attribute("kruxiaflow.outcome", "completed")
                case Died(how):
                    self._failed("died", "PROCESS_DIED", how)
                case Lost(reason):
                    self._failed("lost", "LEASE_LOST", reason)
                case _:
                    if (raised := outcome.raised) is not None:
                        words = {"type": raised.kind, "message": raised.message, "stacktrace": raised.report}
                        attributes = {f"exception.{name}": _text(text) for name, text in words.items()}
                        self._span.add_event("exception", attributes)
                    self._span.set_attribute("kruxiaflow.retryable", outcome.retryable)
                    self._failed("failed", outcome.code, outcome.message)

    def ended(self) -> None:
        """See `Trace.ended`."""
        self._all_open.discard(self)
        with _contained():
            if not self._is_settled:
                message = "the worker stopped before the handler had ended"
                self._failed("given back", "WORKER_SHUTDOWN", message)
            self._span.end()

    def _failed(self, outcome: str, code: str, message: str) -> None:
        self._span.set_attributes({"kruxiaflow.outcome": outcome, "error.type": _text(code)})
        self._span.set_status(Status(StatusCode.ERROR, _text(message)))


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Suppresses exceptions, since a sampler or processor of the app may raise: that costs only the span."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised by code of the app
        log.debug("span_incomplete", reason=repr(error))


def _named(activity: Activity) -> dict[str, str]:
    """Returns the attributes of an activity: the engine's names, and those of the messaging conventions."""
    own = {
        "kruxiaflow.activity.id": activity.activity_id,
        "kruxiaflow.activity.key": activity.key,
        "kruxiaflow.activity.name": activity.name,
        "kruxiaflow.workflow.id": activity.workflow_id,
        "kruxiaflow.worker.id": activity.worker_id,
        "kruxiaflow.worker.type": activity.worker_type,
        "messaging.system": "kruxiaflow",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": activity.name,
        "messaging.message.id": activity.activity_id,
        "messaging.message.conversation_id": activity.workflow_id,
    }
    return {name: _text(value) for name, value in own.items()}


def _text(text: str) -> str:
    """Returns text that can be encoded; any other would cost the whole batch. Keeps the end of a long one."""
    return text[-_MOST_CHARS:].encode(errors="replace").decode()
