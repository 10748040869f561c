"""Begins tracing in a process that has been forked, where it is asked for; it imports OpenTelemetry only then."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import structlog

from flowherd.telemetry.destination import destination_of

if TYPE_CHECKING:
    from flowherd.execution.run_environment import Tracing
    from flowherd.settings.worker_config import WorkerConfig

FLUSH_S = 0.2  # what a process that ends takes beyond a drain's time: it is killed 1.5 s after that
MOST_S = 1.0  # what it takes of the drain's time

log = structlog.stdlib.get_logger(__name__)


@cache
def is_asked_for() -> bool:
    """True when spans are asked for; the variables are read once, before the fork if the app is imported before it."""
    return bool(destination_of(os.environ).traces)


def begin_tracing(config: WorkerConfig, process: int, *, is_loud: bool) -> Tracing | None:
    """The process's tracing; None where none is asked for, or where it cannot be had.

    Args:
        config: names the host.
        process: the number of this process.
        is_loud: whether it says what is in the way; one process of a host does.

    """
    if not is_asked_for():
        return None
    try:
        from flowherd.telemetry.activity_spans import Tracing  # noqa: PLC0415 - as above
        from flowherd.telemetry.span_export import Spans  # noqa: PLC0415 - not where it is not asked for

        return Tracing(Spans(config, process, is_loud=is_loud), process)
    except Exception as error:  # noqa: BLE001 - whatever a library or a variable of its own is in for
        if is_loud:
            log.warning("telemetry_not_started", signal="traces", reason=f"{type(error).__name__}: {error}")
        return None


def end_tracing(tracing: Tracing | None, left_s: float = 0.0) -> None:
    """Sends what is left, within a bound.

    Args:
        tracing: of this process, if any.
        left_s: seconds until the process should have ended.

    """
    if tracing is not None:
        tracing.close(FLUSH_S + min(left_s, MOST_S))
