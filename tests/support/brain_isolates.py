"""Isolates in the model of the world around `decide`: existing ones, and checks of actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import ZYGOTE, Event
from flowherd_supervisor.core.state import Mode, Phase

if TYPE_CHECKING:
    from brain_world import Process, World

Names = tuple[int, int, int]
OUTLIVES_S = 1.0


@dataclass
class IsolateProcess:
    """One isolate from the order to its end."""

    names: Names
    zygote: int
    forked: bool = False
    kills: int = 0


@dataclass
class IsolateWorld:
    """Requested and existing isolates."""

    world: World
    wanted: set[Names] = field(default_factory=set)  # end not reported yet
    started: set[Names] = field(default_factory=set)
    living: dict[Names, IsolateProcess] = field(default_factory=dict)
    bereft_at: dict[tuple[int, int], float] = field(default_factory=dict)
    key: int = 0

    def perform(self, order: actions.AboutIsolate) -> list[Event]:
        names = (order.index, order.incarnation, order.key)
        match order:
            case actions.SpawnIsolate(zygote=zygote):
                assert names in self.wanted, f"nobody wants {order}"
                assert names not in self.living, f"two of {order}"
                if zygote:
                    assert self.world.reachable(ZYGOTE, zygote).ready_at is not None
                self.living[names] = IsolateProcess(names, zygote)
                return [] if zygote or self.world.forks_wait else [self.answer_fork(self.living[names])]
            case actions.KillIsolate():
                self.living[names].kills += 1
                assert self.living[names].forked, f"{order} before it exists"
                assert self.living[names].kills == 1, f"{order} twice"
            case actions.TellIsolateStarted():
                assert names in self.wanted, f"{order} after its end"
                assert names not in self.started, f"{order} twice"
                self.started.add(names)
            case actions.TellIsolateEnded():
                assert names not in self.living, f"{order} while it lives"
                self.wanted.remove(names)  # KeyError if reported twice
        return []

    def answer_fork(self, isolate: IsolateProcess) -> Event:
        if self.world.rng.random() < self.world.forks_fail:
            del self.living[isolate.names]
            return events.IsolateNotForked(*isolate.names, "EAGAIN")
        isolate.forked = True
        return events.IsolateForked(*isolate.names, self.world.rng.randint(2, 99_999))

    def can_be_forked(self, isolate: IsolateProcess) -> bool:
        return not isolate.zygote or not self.world.living[ZYGOTE, isolate.zygote].frozen

    def ask(self, worker: Process) -> None:
        """Lets a worker request one more."""
        self.key += 1
        self.wanted.add((*worker.names, self.key))
        self.world.feed(events.IsolateNeeded(*worker.names, self.key))

    def go_on(self) -> None:
        """Feeds a random event about one isolate."""
        rng = self.world.rng
        if not self.wanted or rng.random() < 0.6:
            return
        names = rng.choice(sorted(self.wanted))
        isolate = self.living.get(names)
        if names[:2] in self.world.living and rng.random() < 0.3:
            self.world.feed(events.IsolateKillWanted(*names))
        elif isolate is not None and not isolate.forked and self.can_be_forked(isolate):
            self.world.feed(self.answer_fork(isolate))
        elif isolate is not None and isolate.forked and (isolate.kills or rng.random() < 0.5):
            self.end(isolate)

    def end(self, isolate: IsolateProcess) -> None:
        del self.living[isolate.names]
        self.world.feed(events.IsolateExited(*isolate.names, 9 if isolate.kills else 0))

    def changing(self) -> list[IsolateProcess]:
        """Returns isolates with an event due: an answer to a fork, or the exit after a kill."""
        return [
            one
            for one in self.living.values()
            if one.kills or not (one.forked or not self.can_be_forked(one))
        ]

    def settle(self, isolate: IsolateProcess) -> None:
        """Feeds the event that is due."""
        if isolate.forked:
            self.end(isolate)
        else:
            self.world.feed(self.answer_fork(isolate))

    def zygote_ended(self, incarnation: int) -> None:
        for isolate in list(self.living.values()):
            if isolate.zygote == incarnation and not isolate.forked:
                del self.living[isolate.names]

    def worker_ended(self, worker: Process) -> None:
        self.bereft_at[worker.names] = self.world.now

    def check(self) -> None:
        """Asserts the invariants."""
        state = self.world.state
        assert {one.names for one in state.isolates} == self.wanted
        for one in state.isolates:
            made = one.phase is not Phase.WAITING
            assert made == (one.names in self.living), one
            waits = state.mode is Mode.SERVING and state.zygotes.awaited
            assert made or waits, f"forgotten: {one}"
            if one.names[:2] not in self.world.living and one.phase is Phase.RUNNING:
                assert one.kill_at < inf, f"nobody ends {one}"
                assert state.mode is not Mode.FINISHING
        for isolate in self.living.values():
            bereft_at = self.bereft_at.get(isolate.names[:2], inf)
            late = self.world.now > bereft_at + OUTLIVES_S and isolate.forked
            assert not late or isolate.kills or self.world.time_is_passing, f"{isolate} outlives its worker"
