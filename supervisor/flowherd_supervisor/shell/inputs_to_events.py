"""Translates signals and messages into events for the state machine."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import msgspec
import structlog

from flowherd.link import messages
from flowherd_supervisor.core import events
from flowherd_supervisor.core.events import KEEPER

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd_supervisor.core.events import Event
    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.processes.process_table import Handle

log = structlog.stdlib.get_logger("flowherd")

SIGNALS: dict[signal.Signals, Event] = {
    signal.SIGTERM: events.StopRequested(),
    signal.SIGINT: events.StopRequested(),
    signal.SIGQUIT: events.StopRequested(times=2),
    signal.SIGTSTP: events.PollingSwitched(on=False),
    signal.SIGCONT: events.PollingSwitched(on=True),
    signal.SIGUSR1: events.StacksRequested(),
}

# An order over the admin socket equals the signal of the same purpose, but a second drain does not equal a second TERM.
ORDERS: dict[str, signal.Signals] = {
    "reload": signal.SIGHUP,
    "quiet": signal.SIGTSTP,
    "resume": signal.SIGCONT,
    "stacks": signal.SIGUSR1,
}


def fact_of_signal(number: signal.Signals, workers: int, reread: Callable[[], Plan | str]) -> Event | None:
    """Translates a signal into an event; None if it has no meaning here.

    Args:
        number: the signal.
        workers: number of worker processes or threads in the current plan.
        reread: reads the settings and returns a plan, or the reason if they cannot be applied.

    """
    match number:
        case signal.SIGHUP:
            plan = reread()
            return events.ReloadRefused(plan) if isinstance(plan, str) else events.ReloadRequested(plan)
        case signal.SIGTTIN:
            return events.ScaleRequested(workers + 1)
        case signal.SIGTTOU:
            return events.ScaleRequested(workers - 1)
        case _:
            return SIGNALS.get(number)


def message_of(handle: Handle, data: bytes) -> messages.Upward | None:
    """Decodes a child's message; one that cannot be decoded is logged and dropped."""
    try:
        return messages.decode_upward(data)
    except msgspec.DecodeError as error:
        log.error("unreadable_message", process=handle.index, reason=str(error))
        return None


def fact_of(handle: Handle, message: messages.Message) -> Event | signal.Signals | None:
    """Translates a child's message into an event or a signal; an unexpected one is logged and dropped."""
    names = (handle.index, handle.incarnation)
    fact: Event | signal.Signals | None = None
    match message:
        case messages.Ready(worker_type, activities, hazards):
            fact = events.ChildReady(*names, worker_type, activities, hazards)
        case messages.BootFailed(code, text, report):
            fact = events.BootFailed(*names, code, text, report)
        case messages.Stopped(released, undelivered):
            fact = events.ChildStopped(*names, released, undelivered)
        case messages.CredentialsRefused(detail):
            fact = events.CredentialsRefused(detail)
        case messages.LoopBlocked(name, place, seconds, cpu_share, is_over):
            fact = events.LoopBlocked(*names, name, place, seconds, cpu_share, is_over)
        case messages.MoveFailed(name, reason):
            fact = events.MoveFailed(*names, name, reason)
        case messages.Asked("keep", activity=name) if handle.index == KEEPER:
            fact = events.KeepRequested(name)
        case messages.Asked("scale", processes) if handle.index == KEEPER:
            fact = events.ScaleRequested(processes)
        case messages.Asked("drain") if handle.index == KEEPER:
            fact = events.DrainOrdered()
        case messages.Asked(order) if handle.index == KEEPER and order in ORDERS:
            fact = ORDERS[order]
        case _:
            log.error("message_not_understood", process=handle.index, message=type(message).__name__)
    return fact
