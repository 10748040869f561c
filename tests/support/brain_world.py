"""A model of the world around `decide`: existing processes, and checks of every action."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from brain_isolates import IsolateWorld

from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import KEEPER, ZYGOTE, Event
from flowherd_supervisor.core.plan import Plan, Preload
from flowherd_supervisor.core.restart_backoff import RestartPolicy
from flowherd_supervisor.core.state import Mode, Phase, State
from flowherd_supervisor.core.state_machine import decide

if TYPE_CHECKING:
    import random

BOOT_USAGE, BOOT_BAD, CREDENTIALS, CRASH_LOOP, RELEASED, INTERNAL = 2, 3, 4, 5, 6, 1
SIGKILLED, EXITED_1 = 9, 1 << 8


@dataclass
class Process:
    """One incarnation with the state that the kernel and it itself have."""

    index: int
    incarnation: int
    forked: bool = False
    forked_at: float = inf
    ready_at: float | None = None
    polls: bool = False
    told_to_end: bool = False
    kills: int = 0
    limit: int = 0
    applied: int = 0
    orders: list[tuple[int, int]] = field(default_factory=list)
    held: int = 0
    zygote: int = 0  # incarnation of the zygote that forks it
    frozen: bool = False

    @property
    def names(self) -> tuple[int, int]:
        """Index and incarnation."""
        return self.index, self.incarnation


class World:
    """Live processes, past events and possible ones; checks every action."""

    def __init__(self, rng: random.Random) -> None:
        processes = rng.randint(1, 5)
        threads = rng.randint(1, 5) if processes == 1 else None
        self.plan = Plan(
            processes=processes,
            threads=threads,
            concurrency=(threads or processes) + rng.randint(0, 9),
            graceful_timeout_s=rng.choice([0.0, 3.0, 30.0]),
            boot_timeout_s=rng.choice([2.0, 30.0]),
            restarts=RestartPolicy(max_restarts=rng.choice([0, 1, 3, 10])),
            preload=rng.choice(list(Preload)),
        )
        self.rng = rng
        self.state = State.new(self.plan)
        self.now = rng.uniform(0, 1e6)
        self.forks_fail = rng.choice([0.0, 0.0, 0.3, 1.0])
        self.forks_wait = rng.random() < 0.3
        self.unsafe = rng.choice([0.0, 0.0, 0.3, 1.0])  # share of app versions that do not survive a fork
        self.isolating = rng.choice([0.0, 0.3, 1.0])
        self.freezes = rng.choice([0.0, 0.0, 0.5])  # share of zygotes that freeze
        self.living: dict[tuple[int, int], Process] = {}
        self.past: list[tuple[int, int]] = []
        self.causes: set[int] = set()
        self.excuses: set[int] = set()  # exit codes that are allowed besides 0
        self.short_ends: list[float] = []
        self.keeper_ends: list[float] = []
        self.ever_ready = False
        self.stops = 0
        self.exit_code: int | None = None
        self.isolates = IsolateWorld(self)
        self.time_is_passing = False
        self.log: list[str] = []

    # From events to actions

    def feed(self, event: Event) -> None:
        """Decides on an event and performs the actions, as the shell does."""
        waiting = [event]
        while waiting:
            event = waiting.pop(0)
            self.log.append(f"{self.now:.2f} {event}")
            self.state, orders = decide(self.state, event, self.now, self.rng)
            for order in orders:
                self.log.append(f"    {order}")
                waiting += self.perform(order)
        self.check()

    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.time_is_passing = True
        self.feed(events.TimePassed())
        self.time_is_passing = False
        assert self.state.next_deadline > self.now, "the shell would spin"
        again, _ = decide(self.state, events.TimePassed(), self.now, self.rng)
        assert again == self.state, "it depends on how often one looks"

    def perform(self, order: actions.Action) -> list[Event]:
        assert self.exit_code is None, f"{order} after Exit"
        match order:
            case actions.Spawn(index, incarnation, limit, zygote):
                for other in self.living.values():
                    assert other.index != index or self.may_have_a_successor(other), f"two of process {index}"
                assert index == KEEPER or not self.stops, "a worker is born into a stop"
                process = Process(index, incarnation, limit=limit, zygote=zygote)
                self.living[process.names] = process
                if zygote:
                    assert self.reachable(ZYGOTE, zygote).ready_at is not None
                    assert index not in {KEEPER, ZYGOTE}
                return [] if self.forks_wait or zygote else [self.answer_fork(process)]
            case actions.SetSlots(index, incarnation, limit, n):
                self.reachable(index, incarnation).orders.append((limit, n))
            case actions.Kill(index, incarnation):
                process = self.reachable(index, incarnation)
                process.kills += 1
                assert process.kills == 1, f"{process} was killed twice"
                self.blame_kill(process)
            case actions.Drain(index, incarnation) | actions.Release(index, incarnation):
                self.reachable(index, incarnation).told_to_end = True
            case actions.SwitchPolling(index, incarnation, on):
                process = self.reachable(index, incarnation)
                assert process.ready_at is not None
                process.polls = on
            case actions.FinishKeeper(incarnation, within_s):
                assert within_s >= 0
                assert {process for process, _ in self.living} == {KEEPER}, (
                    "the keeper was told to finish while workers live"
                )
                self.reachable(KEEPER, incarnation).told_to_end = True
            case actions.Exit(code):
                assert not self.living, f"left {self.living} behind"
                assert not self.isolates.living, f"left {self.isolates.living} behind"
                self.exit_code = code
            case actions.DumpStacks() | actions.Note() | actions.Abort():
                return []
            case _:
                return self.isolates.perform(order)
        return []

    def may_have_a_successor(self, process: Process) -> bool:
        """True for a ready worker, which works until its successor is ready, and for one that was given up."""
        given_up = process.kills or process.told_to_end or not process.forked
        return process.index != KEEPER and bool(given_up or process.ready_at is not None)

    def reachable(self, index: int, incarnation: int) -> Process:
        process = self.living.get((index, incarnation))
        assert process is not None, f"there is no incarnation {incarnation} in index {index}"
        assert process.forked, f"{process} does not exist yet"
        return process

    def blame_kill(self, process: Process) -> None:
        """Records the exit code that a kill allows or demands: it had work, could not settle, or never booted."""
        boots_too_long = self.now >= process.forked_at + self.plan.boot_timeout_s
        if process.index == KEEPER:
            (self.excuses if boots_too_long else self.causes).add(RELEASED)
        elif process.ready_at is not None and process.index != ZYGOTE:
            (self.excuses if self.state.mode is Mode.SERVING else self.causes).add(RELEASED)
        elif boots_too_long and process.ready_at is None and not self.ever_ready:
            self.causes.add(BOOT_BAD)

    def check(self) -> None:
        """Asserts the invariants."""
        state = self.state
        if state.mode is Mode.SERVING:
            for process in (*state.processes, state.keeper):
                waits = process.phase is Phase.WAITING and (not self.ever_ready or state.zygotes.awaited)
                assert process.alive or process.retry_at < inf or waits, f"forgotten: {process}"
            one_is_up = any(process.alive for process in state.processes) or not state.zygotes.wanted
            assert one_is_up or state.zygotes.processes, "all wait for a zygote that is not ordered"
            assert sum(process.phase is Phase.RUNNING for process in state.zygotes.processes) <= 1, (
                "two zygotes fork"
            )
            if (kept := state.zygotes.kept) is not None:
                new = [one for one in state.processes if one.maker > kept.incarnation]
                assert not any(one.phase is Phase.RUNNING for one in new), "an old zygote is kept for nothing"
            for process in self.living.values():
                homeless = process.index >= len(state.processes)
                assert not homeless or self.was_told(process), (
                    f"{process} was not told that its index is gone"
                )
        elif state.mode is not Mode.ENDED:
            for process in self.living.values():
                stays = process.index == KEEPER or (process.index == ZYGOTE and state.mode is Mode.DRAINING)
                assert stays or self.was_told(process), f"{process} was not told to end"
        for process in (*state.workers, state.keeper, *state.zygotes.processes):
            assert process.alive == ((process.number, process.incarnation) in self.living), process
        for process in state.workers:
            if process.phase in {Phase.STARTING, Phase.RUNNING}:
                may_poll = process.phase is Phase.RUNNING and state.polling
                assert self.living[process.number, process.incarnation].polls is may_poll, process
        self.isolates.check()
        held = sum(process.held for process in self.living.values())
        assert held <= self.plan.concurrency, f"{held} of {self.plan.concurrency} slots are in use"

    @staticmethod
    def was_told(process: Process) -> bool:
        """True if it has been told to end, or will be killed once it exists."""
        return bool(process.told_to_end or process.kills or not process.forked)

    # What processes do

    def can_be_forked(self, process: Process) -> bool:
        """True unless the zygote that should fork it is frozen."""
        return not process.zygote or not self.living[ZYGOTE, process.zygote].frozen

    def answer_fork(self, process: Process) -> Event:
        if self.rng.random() < self.forks_fail:
            del self.living[process.names]
            if process.index == KEEPER and self.state.mode is Mode.FINISHING:
                self.causes.add(RELEASED)
            return events.SpawnFailed(process.index, process.incarnation, "EAGAIN")
        process.forked, process.forked_at = True, self.now
        return events.ChildForked(process.index, process.incarnation, self.rng.randint(2, 99_999))

    def become_ready(self, process: Process) -> None:
        process.ready_at = self.now
        self.ever_ready |= process.index >= 0 and not process.told_to_end
        hazards = ("a thread",) if process.index == ZYGOTE and self.rng.random() < self.unsafe else ()
        process.frozen = process.index == ZYGOTE and self.rng.random() < self.freezes
        self.feed(events.ChildReady(process.index, process.incarnation, "py-std", hazards=hazards))

    def use_slots(self, process: Process) -> None:
        """Applies the oldest SetSlots, takes or frees slots, and may feed SlotsSeen."""
        rng = self.rng
        if process.orders and rng.random() < 0.5:
            process.limit, process.applied = process.orders.pop(0)
        free = max(0, process.limit - process.held)
        if rng.random() < 0.5 and process.polls and not process.told_to_end:
            process.held += rng.randint(0, free)
        else:
            process.held -= rng.randint(0, process.held)
        if rng.random() < 0.5:
            self.feed(events.SlotsSeen(*process.names, process.applied, process.held))
        self.check()

    def fail_to_boot(self, process: Process) -> None:
        code = self.rng.choice([BOOT_USAGE, BOOT_BAD])
        if not self.ever_ready:
            self.causes.add(code)
        self.feed(events.BootFailed(process.index, process.incarnation, code, "no", "Traceback"))
        self.end(process, code << 8)

    def stop_as_told(self, process: Process) -> None:
        if process.index != KEEPER and process.ready_at is not None:
            released = self.rng.choice([0, 0, 2])
            if released and self.state.mode is not Mode.SERVING:
                self.causes.add(RELEASED)
            self.feed(events.ChildStopped(process.index, process.incarnation, released, ()))
        self.end(process, 0)

    def end(self, process: Process, status: int, running: int = 0) -> None:
        del self.living[process.names]
        self.past.append(process.names)
        self.isolates.worker_ended(process)
        if process.index == ZYGOTE:
            for asked in [one for one in self.living.values() if one.zygote == process.incarnation]:
                if not asked.forked:
                    del self.living[asked.names]
            self.isolates.zygote_ended(process.incarnation)
            self.feed(events.ChildExited(process.index, process.incarnation, status, running))
            return
        present = (
            self.state.index(process.index).incarnation if process.index < len(self.state.processes) else 0
        )
        if process.index == KEEPER:
            self.remember_keeper_end(status)
        elif self.state.mode is not Mode.SERVING:
            self.causes |= {RELEASED} if running else set()
        elif process.incarnation == present and (
            process.ready_at is None or (self.now - process.ready_at < 2 and not running)
        ):
            self.remember_short_end()
        self.feed(events.ChildExited(process.index, process.incarnation, status, running))

    def remember_short_end(self) -> None:
        self.short_ends.append(self.now)
        most = self.plan.restarts.max_restarts
        if most and sum(self.now - at < 60 for at in self.short_ends) > most:
            self.causes.add(CRASH_LOOP)

    def remember_keeper_end(self, status: int) -> None:
        self.keeper_ends.append(self.now)
        if self.state.mode is Mode.FINISHING:
            self.excuses |= {RELEASED, INTERNAL} if status else set()
            return
        if sum(self.now - at < 10 for at in self.keeper_ends) >= 3:
            self.causes.add(INTERNAL)
