"""The table's commands: frozen values that `worker.py` performs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flowherd.model import Failed
    from flowherd.worker.attempt import Attempt


class Start(NamedTuple):
    """Start the handler; at its first step ask `AttemptTable.begin`."""

    attempt: Attempt


class Stop(NamedTuple):
    """Tell the handler to end; `is_last` when it has been told before and its grace is over."""

    attempt: Attempt
    is_last: bool = False


class Withdraw(NamedTuple):
    """The handler was to be started, and must not begin any more: its claim has ended."""

    attempt: Attempt


class Deliver(NamedTuple):
    """Deliver the attempt's outcome; its end is the fact `delivered`."""

    attempt: Attempt


class Reject(NamedTuple):
    """Report a failure about an activity that has no record here; its end is the fact `rejected`."""

    activity_id: str
    worker_id: str
    failure: Failed


class WarnNotBegun(NamedTuple):
    """Say that an attempt was claimed `waited_s` seconds ago and has not begun, and why."""

    attempt: Attempt
    waited_s: float
    reason: str


class WakePoller(NamedTuple):
    """There may be room for more."""


Command = Start | Stop | Withdraw | Deliver | Reject | WarnNotBegun | WakePoller
