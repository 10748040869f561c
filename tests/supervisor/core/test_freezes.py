"""N4: every deadline of the supervisor counts only the time that it was awake; each rule by itself."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from brain import Brain, forked, ready

from flowherd.awake_clock import STEP_S
from flowherd.ledger import Ledger
from flowherd.ledger.wakeups import Wakeups
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import Kill
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.plan import Plan, Preload
from flowherd_supervisor.core.state import Isolate, Mode, Phase, ProcessState, State
from flowherd_supervisor.shell.inbox import Inbox
from flowherd_supervisor.shell.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEGAN, FROZEN_S = 1000.0, 120.0


class NoHost:
    """A host that starts nothing."""

    def birth(self, *_: Any) -> Any:
        raise AssertionError("nothing is to be made")

    isolate_birth = reread = birth


class Shell:
    """A supervisor with a given state and a manual clock."""

    def __init__(self, plan: Plan, ledger: Ledger, wakeups: Wakeups) -> None:
        self.now = BEGAN
        self.supervisor = Supervisor(plan, ledger, wakeups, NoHost(), Inbox(), lambda: self.now)
        self.supervisor._look_at = inf  # nothing is held

    def passes(self, seconds: float, frozen_s: float = 0.0) -> None:
        """Waits and checks deadlines, as `run` does; a freeze occurs during a wait."""
        until = self.now + seconds
        while self.now < until:
            wait_s = self.supervisor._patience_s()
            assert wait_s <= STEP_S or self.supervisor._state.next_deadline == inf, (
                "a freeze within a long wait cannot be seen"
            )
            self.now += min(max(wait_s, 0.001), until - self.now) + frozen_s
            until, frozen_s = until + frozen_s, 0.0
            self.supervisor._feed(events.TimePassed())


@pytest.fixture
def shell() -> Iterator[Shell]:
    ledger = Ledger(processes=2, records=2)
    wakeups = Wakeups(len(ledger.segments))
    made = Shell(Plan(processes=1, concurrency=2), ledger, wakeups)
    yield made
    made.supervisor._inbox.close()
    wakeups.close()


def serving() -> State:
    return Brain(1).serve().state


def _worker(state: State, **changes: Any) -> State:
    return state.with_process(replace(state.processes[0], pid=9, **changes))


def booting(state: State) -> State:
    return _worker(state, phase=Phase.STARTING, ready_at=None, started_at=BEGAN)


def retiring(state: State) -> State:
    return _worker(state, phase=Phase.DRAINING, kill_at=BEGAN + 30.0)


def aborting(state: State) -> State:
    return _worker(state, phase=Phase.ABORTING, kill_at=BEGAN + 1.0)


def draining(state: State) -> State:
    return replace(_worker(state, phase=Phase.DRAINING), mode=Mode.DRAINING, deadline=BEGAN + 31.5)


def releasing(state: State) -> State:
    return replace(_worker(state, phase=Phase.DRAINING), mode=Mode.RELEASING, deadline=BEGAN + 0.5)


def worker_dies(state: State) -> bool:
    return state.processes[0].phase is Phase.DYING


def settling(state: State) -> State:
    processes = tuple(process.with_phase(Phase.STOPPED) for process in state.processes)
    return replace(state, processes=processes, mode=Mode.FINISHING, deadline=BEGAN + 5.1)


def keeper_dies(state: State) -> bool:
    return state.keeper.phase is Phase.DYING


def forking(state: State) -> State:
    """A zygote has been asked for a worker and has not answered."""
    zygote = ProcessState(-2, phase=Phase.RUNNING, incarnation=1, pid=8, ready_at=BEGAN)
    state = replace(state, zygotes=replace(state.zygotes, wanted=True, processes=(zygote,)))
    process = replace(state.processes[0], phase=Phase.STARTING, pid=None, maker=1, started_at=BEGAN)
    return state.with_process(process)


def zygote_dies(state: State) -> bool:
    return state.zygotes.processes[0].phase is Phase.DYING


def outliving(state: State) -> State:
    """An isolate whose worker has ended and that has a second to end itself."""
    return replace(state, isolates=(Isolate(0, 7, 1, phase=Phase.RUNNING, pid=7, kill_at=BEGAN + 1.0),))


def isolate_dies(state: State) -> bool:
    return state.isolates[0].phase is Phase.DYING


RULES = [
    (booting, worker_dies, 30.0), (retiring, worker_dies, 30.0), (aborting, worker_dies, 1.0),
    (draining, worker_dies, 31.5), (releasing, worker_dies, 0.5), (settling, keeper_dies, 5.1),
    (forking, zygote_dies, 3.0), (outliving, isolate_dies, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "has_ended", "limit_s"), RULES, ids=lambda one: getattr(one, "__name__", "")
)
def test_n4_a_freeze_longer_than_the_limit_ends_no_process_but_the_limit_does(
    shell: Shell, begin: Callable[[State], State], has_ended: Callable[[State], bool], limit_s: float
) -> None:
    """A process that was frozen too gets its full time, and is ended after it."""
    shell.supervisor._state = begin(serving())
    shell.passes(limit_s / 10, frozen_s=FROZEN_S)
    assert not has_ended(shell.supervisor._state)
    assert shell.supervisor._state.next_deadline < inf
    shell.passes(limit_s)
    assert has_ended(shell.supervisor._state)


def test_n14_a_zygote_that_forks_one_after_the_other_is_not_late_however_many_it_has_to() -> None:
    """N14: with `-p 200` on two CPUs it was killed twice before it had forked them all."""
    brain = Brain(5, preload=Preload.ALWAYS)
    brain.hears(events.Started(), forked(KEEPER), ready(KEEPER), forked(ZYGOTE), ready(ZYGOTE))
    for number in range(4):
        brain.hears(forked(number), after=0.9)
        assert not [order for order in brain.at(0.0) if isinstance(order, Kill)]
    assert brain.at(2.9) == []
    assert brain.at(0.2) == [Kill(ZYGOTE, 1)], "one that has stopped in the middle of it is late"
