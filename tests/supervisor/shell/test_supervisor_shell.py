"""The shell without forks: contained defects, and causes of exits."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.ledger import Cause, Ledger, Life
from flowherd.ledger.wakeups import Wakeups
from flowherd.link import messages
from flowherd.link.link import Link
from flowherd_supervisor.core import events
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import Phase
from flowherd_supervisor.processes.process_table import Handle
from flowherd_supervisor.shell import supervisor as supervisor_module
from flowherd_supervisor.shell.inbox import Inbox
from flowherd_supervisor.shell.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger import Segment


class Broken(Exception):
    """A defect of flowherd."""


class BrokenHost:
    """A host that fails at every call."""

    def birth(self, *_: Any) -> Any:
        raise Broken("a defect")

    isolate_birth = reread = birth


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    ledger = Ledger(processes=2, records=2)
    wakeups = Wakeups(len(ledger.segments))
    one = Supervisor(Plan(processes=1, concurrency=2), ledger, wakeups, BrokenHost(), Inbox())
    yield one
    one._inbox.close()
    wakeups.close()


def test_p16_a_defect_while_a_process_is_made_is_answered_and_tried_again(supervisor: Supervisor) -> None:
    """Faults P16: each Spawn needs an answer; the segment must be freed."""
    supervisor._feed(events.Started())
    assert supervisor._state.processes[0].phase is Phase.BACKOFF
    assert supervisor._state.keeper.phase is Phase.BACKOFF
    assert {segment.life for segment in supervisor._ledger.segments} == {Life.FREE, Life.ENDED}


def test_p16_a_defect_while_settings_are_read_again_changes_nothing(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """Faults P16: HUP must never take the host down."""
    assert list(supervisor._understand(signal.SIGHUP)) == []
    assert "Broken: a defect" in caplog.text


def handle_of(supervisor: Supervisor, pid: int = 1, incarnation: int = 1) -> Handle:
    """A running worker with its own segment."""
    segment = supervisor._ledger.free_segment()
    assert segment is not None
    segment.open(index=0, incarnation=incarnation, now=0.0)
    ours, theirs = Link.pair()
    theirs.close()
    return Handle(0, incarnation, pid, -1, ours, (segment,), os.memfd_create("stacks"))


def test_p16_a_defect_while_an_exit_is_handled_affects_no_other_exit(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """P16: a reaped child is settled, and its exit and those after it are handled."""
    first, second = handle_of(supervisor), handle_of(supervisor, pid=2, incarnation=2)
    supervisor._processes._ended = [(first, 9), (second, 256)]

    def broken(*_: Any) -> Any:
        raise Broken("a defect")

    monkeypatch.setattr(supervisor, "_cause", broken)
    monkeypatch.setattr(supervisor._processes, "reap", broken)
    monkeypatch.setattr(Handle, "last_words", broken)
    monkeypatch.setattr(supervisor._inbox, "forget", broken)
    found = list(supervisor._gather([]))
    assert [
        (event.incarnation, event.status) for event in found if isinstance(event, events.ChildExited)
    ] == [
        (1, 9),
        (2, 256),
    ]
    assert [segment.life for segment in (*first.segments, *second.segments)] == [Life.ENDED, Life.ENDED]
    assert "Broken: a defect" in caplog.text


def test_p16_a_defect_with_one_message_does_not_hide_later_ones(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P16: nor does it hide the end of its link."""
    ours, theirs = Link.pair()
    ours.set_blocking(blocking=False)
    handle = Handle(0, 1, 1, -1, ours, (), -1)
    for message in (messages.Stopped(1), messages.Ready("py-std")):
        theirs.send(message)
    theirs.close()
    understood = supervisor_module.fact_of

    def fact_of(handle: Handle, message: messages.Message) -> Any:
        if isinstance(message, messages.Stopped):
            raise Broken("a defect")
        return understood(handle, message)

    monkeypatch.setattr(supervisor_module, "fact_of", fact_of)
    assert [type(event).__name__ for event in supervisor._read(handle)] == ["ChildReady"]
    ours.close()


def test_p16_an_exit_on_which_decide_failed_is_fed_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P16: otherwise that process would never be replaced."""
    heard: list[Any] = []

    def decide(state: Any, event: Any, *_: Any) -> Any:
        heard.append(event)
        if len(heard) == 1:
            raise Broken("a defect")
        return state, ()

    monkeypatch.setattr(supervisor_module, "decide", decide)
    monkeypatch.setattr(supervisor_module, "SOON_S", 0.0)
    end = events.ChildExited(0, 1, 9, 0)
    supervisor._feed(end)
    supervisor._go_round([])
    supervisor._go_round([])
    assert heard.count(end) == 2


def test_the_ledger_gets_the_cause_of_an_end(supervisor: Supervisor) -> None:
    """N25: a reload that times out must not be charged to the activities."""
    segment: Segment | None = supervisor._ledger.free_segment()
    assert segment is not None
    segment.open(index=0, incarnation=1, now=0.0)
    process = replace(
        supervisor._state.processes[0], incarnation=1, phase=Phase.DYING, ends_for=Cause.RELOAD, ready_at=0.0
    )
    supervisor._state = supervisor._state.with_process(process)
    ours, theirs = Link.pair()
    event = supervisor._bury_process(Handle(0, 1, 1, -1, ours, (segment,), -1), 9)
    assert event == events.ChildExited(0, 1, 9, 0)
    assert segment.cause is Cause.RELOAD
    theirs.close()
