"""Begins and ends tracing in a forked process; imports OpenTelemetry only when spans are enabled."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import structlog

from flowherd.telemetry.destination import destination_of

if TYPE_CHECKING:
    from flowherd.execution.run_environment import Tracing
    from flowherd.settings.worker_config import WorkerConfig

FLUSH_S = 0.2  # for the last spans beyond the drain limit, 1.5 s after which the process is killed
MOST_S = 1.0  # for the last spans within the drain limit

log = structlog.stdlib.get_logger(__name__)


@cache
def is_asked_for() -> bool:
    """True when spans are enabled; the variables are read once, before the fork if the app is preloaded."""
    return bool(destination_of(os.environ).traces)


def begin_tracing(config: WorkerConfig, process: int, *, is_loud: bool) -> Tracing | None:
    """Returns the process's tracing; None when it is not enabled or cannot be started.

    Args:
        config: the configuration, for the host's name.
        process: this process's index.
        is_loud: True for the one process of the host that logs warnings.

    """
    if not is_asked_for():
        return None
    try:
        from flowherd.telemetry.activity_spans import Tracing  # noqa: PLC0415 - as above
        from flowherd.telemetry.span_export import Spans  # noqa: PLC0415 - only when spans are enabled

        return Tracing(Spans(config, process, is_loud=is_loud), process)
    except Exception as error:  # noqa: BLE001 - the libraries or their variables may raise anything
        if is_loud:
            log.warning("telemetry_not_started", signal="traces", reason=f"{type(error).__name__}: {error}")
        return None


def end_tracing(tracing: Tracing | None, left_s: float = 0.0) -> None:
    """Sends the remaining spans, within a time limit.

    Args:
        tracing: this process's tracing, if any.
        left_s: seconds until the process should have ended.

    """
    if tracing is not None:
        tracing.close(FLUSH_S + min(left_s, MOST_S))
