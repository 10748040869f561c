"""The shell around the brain where it needs no fork: what is contained, and whose fault a death is."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.ledger import Cause, Cell, Ledger, Life
from flowherd.process.link import Link
from flowherd.shared.bells import Bells
from flowherd_supervisor.core import events
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import Mode, Phase
from flowherd_supervisor.forking.processes import Handle
from flowherd_supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger import Berth


class Broken(Exception):
    """A defect of ours."""


class BrokenHost:
    """Fails at whatever it is asked."""

    def birth(self, *_: Any) -> Any:
        raise Broken("a defect")

    isolate_birth = reread = birth


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    ledger = Ledger(seats=2, records=2)
    bells = Bells(len(ledger.berths))
    one = Supervisor(Plan(processes=1, concurrency=2), ledger, bells, BrokenHost())
    yield one
    one._inbox.close()
    bells.close()


def test_p16_a_defect_while_a_process_is_made_is_answered_and_tried_again(supervisor: Supervisor) -> None:
    """Faults P16: the brain waits for an answer to each Spawn; the berth must not stay taken."""
    supervisor._feed(events.Started())
    assert supervisor._state.seats[0].phase is Phase.BACKOFF
    assert supervisor._state.keeper.phase is Phase.BACKOFF
    assert {berth.life for berth in supervisor._ledger.berths} == {Life.FREE, Life.ENDED}


def test_p16_a_defect_while_settings_are_read_again_changes_nothing(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """Faults P16: HUP must never take the host down."""
    assert list(supervisor._understand(signal.SIGHUP)) == []
    assert "Broken: a defect" in caplog.text


@pytest.mark.parametrize(
    ("mode", "phase", "guilty", "cause"),
    [
        (Mode.SERVING, Phase.RUNNING, 0, Cause.CRASH),
        (Mode.SERVING, Phase.DRAINING, 0, Cause.CRASH),
        (Mode.SERVING, Phase.DYING, 0, Cause.STOPPED),
        (Mode.SERVING, Phase.DYING, 5, Cause.HUNG),
        (Mode.DRAINING, Phase.DRAINING, 0, Cause.STOPPED),
        (Mode.RELEASING, Phase.DYING, 0, Cause.STOPPED),
    ],
)
def test_only_a_death_that_we_did_not_order_is_a_crash(
    supervisor: Supervisor, mode: Mode, phase: Phase, guilty: int, cause: Cause
) -> None:
    """Design, poison: a reload that runs out of patience must not be charged to the activities."""
    berth: Berth | None = supervisor._ledger.free_berth()
    assert berth is not None
    berth.open(seat=0, incarnation=1, now=0.0)
    berth.put(Cell.GUILTY, guilty)
    seat = replace(supervisor._state.seats[0], incarnation=1, phase=phase, pid=1)
    supervisor._state = replace(supervisor._state.with_seat(seat), mode=mode)
    ours, theirs = Link.pair()
    assert supervisor._cause(Handle(0, 1, 1, -1, ours, (berth,), -1), berth) is cause
    ours.close()
    theirs.close()
