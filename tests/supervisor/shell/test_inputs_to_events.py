"""The meaning of each signal to the supervisor."""

from __future__ import annotations

import signal

import pytest

from flowherd_supervisor.core import events
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.shell.inputs_to_events import fact_of_signal

PLAN = Plan(processes=3, concurrency=9)


@pytest.mark.parametrize(
    ("number", "fact"),
    [
        (signal.SIGTERM, events.StopRequested()),
        (signal.SIGQUIT, events.StopRequested(times=2)),
        (signal.SIGHUP, events.ReloadRequested(PLAN)),
        (signal.SIGTTIN, events.ScaleRequested(4)),
        (signal.SIGTTOU, events.ScaleRequested(2)),
        (signal.SIGTSTP, events.PollingSwitched(on=False)),
        (signal.SIGCONT, events.PollingSwitched(on=True)),
        (signal.SIGUSR1, events.StacksRequested()),
        (signal.SIGWINCH, None),
    ],
)
def test_each_signal_is_one_fact(number: signal.Signals, fact: events.Event | None) -> None:
    assert fact_of_signal(number, 3, lambda: PLAN) == fact


def test_a_reload_with_wrong_settings_is_refused_with_the_reason() -> None:
    assert fact_of_signal(signal.SIGHUP, 3, lambda: "no such setting") == events.ReloadRefused(
        "no such setting"
    )
