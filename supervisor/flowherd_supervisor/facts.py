"""What signals and messages mean: facts for the brain; it decides nothing."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import msgspec
import structlog

from flowherd.core import messages
from flowherd_supervisor.core import events

if TYPE_CHECKING:
    from flowherd_supervisor.core.events import Event
    from flowherd_supervisor.processes import Handle

log = structlog.stdlib.get_logger("flowherd")

SIGNALS: dict[signal.Signals, Event] = {
    signal.SIGTERM: events.StopRequested(),
    signal.SIGINT: events.StopRequested(),
    signal.SIGQUIT: events.StopRequested(times=2),
    signal.SIGTSTP: events.PollingSwitched(on=False),
    signal.SIGCONT: events.PollingSwitched(on=True),
    signal.SIGUSR1: events.StacksRequested(),
}


def fact_of(handle: Handle, data: bytes) -> Event | None:
    """A child's message as a fact; one that cannot be read is named and dropped."""
    try:
        message = messages.decode_upward(data)
    except msgspec.DecodeError as error:
        log.error("unreadable_message", process=handle.seat, reason=str(error))
        return None
    match message:
        case messages.Ready(worker_type, activities):
            return events.ChildReady(handle.seat, handle.incarnation, worker_type, activities)
        case messages.BootFailed(code, text, report):
            return events.BootFailed(handle.seat, handle.incarnation, code, text, report)
        case messages.Stopped(released, undelivered):
            return events.ChildStopped(handle.seat, handle.incarnation, released, undelivered)
        case messages.CredentialsRefused(detail):
            return events.CredentialsRefused(detail)
        case _:
            log.error("message_not_understood", process=handle.seat, message=type(message).__name__)
            return None
