"""A model of the world around the brain: what exists, and whether an order makes sense; it forks nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from brain_isolates import IsolateWorld

from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import KEEPER, MOLD, Event
from flowherd_supervisor.core.machine import decide
from flowherd_supervisor.core.plan import Plan, Preload
from flowherd_supervisor.core.restarts import RestartPolicy
from flowherd_supervisor.core.state import Mode, Phase, State

if TYPE_CHECKING:
    import random

BOOT_USAGE, BOOT_BAD, CREDENTIALS, CRASH_LOOP, RELEASED, INTERNAL = 2, 3, 4, 5, 6, 1
SIGKILLED, EXITED_1 = 9, 1 << 8


@dataclass
class Process:
    """One incarnation as the kernel and its own memory know it."""

    seat: int
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
    mold: int = 0  # whom its fork was asked of
    frozen: bool = False

    @property
    def names(self) -> tuple[int, int]:
        """What the brain calls it."""
        return self.seat, self.incarnation


class World:
    """What exists, what has happened, and what may follow; checks every order on arrival."""

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
        self.unsafe = rng.choice([0.0, 0.0, 0.3, 1.0])  # how many versions of the app do not survive a fork
        self.isolating = rng.choice([0.0, 0.3, 1.0])
        self.freezes = rng.choice([0.0, 0.0, 0.5])  # how many molds fork no more
        self.living: dict[tuple[int, int], Process] = {}
        self.past: list[tuple[int, int]] = []
        self.causes: set[int] = set()
        self.excuses: set[int] = set()  # codes that may be right, where 0 may be right as well
        self.short_ends: list[float] = []
        self.keeper_ends: list[float] = []
        self.ever_ready = False
        self.stops = 0
        self.exit_code: int | None = None
        self.isolates = IsolateWorld(self)
        self.time_is_passing = False
        self.log: list[str] = []

    # From events to orders

    def feed(self, event: Event) -> None:
        """Decides on an event and performs what follows, as the shell does."""
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
            case actions.Spawn(seat, incarnation, limit, mold):
                for other in self.living.values():
                    assert other.seat != seat or self.may_have_a_successor(other), (
                        f"two processes in seat {seat}"
                    )
                assert seat == KEEPER or not self.stops, "a worker is born into a stop"
                process = Process(seat, incarnation, limit=limit, mold=mold)
                self.living[process.names] = process
                if mold:
                    assert self.reachable(MOLD, mold).ready_at is not None
                    assert seat not in {KEEPER, MOLD}
                return [] if self.forks_wait or mold else [self.answer_fork(process)]
            case actions.SetSlots(seat, incarnation, limit, n):
                self.reachable(seat, incarnation).orders.append((limit, n))
            case actions.Kill(seat, incarnation):
                process = self.reachable(seat, incarnation)
                process.kills += 1
                assert process.kills == 1, f"{process} was killed twice"
                self.blame_kill(process)
            case actions.Drain(seat, incarnation) | actions.Release(seat, incarnation):
                self.reachable(seat, incarnation).told_to_end = True
            case actions.SwitchPolling(seat, incarnation, on):
                process = self.reachable(seat, incarnation)
                assert process.ready_at is not None
                process.polls = on
            case actions.FinishKeeper(incarnation, within_s):
                assert within_s >= 0
                assert {seat for seat, _ in self.living} == {KEEPER}, (
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
        """A worker that is ready and works on until the new one is, or one that was given up."""
        given_up = process.kills or process.told_to_end or not process.forked
        return process.seat != KEEPER and bool(given_up or process.ready_at is not None)

    def reachable(self, seat: int, incarnation: int) -> Process:
        process = self.living.get((seat, incarnation))
        assert process is not None, f"there is no incarnation {incarnation} in seat {seat}"
        assert process.forked, f"{process} does not exist yet"
        return process

    def blame_kill(self, process: Process) -> None:
        """What was killed had work, or could not settle, or never came up."""
        boots_too_long = self.now >= process.forked_at + self.plan.boot_timeout_s
        if process.seat == KEEPER:
            (self.excuses if boots_too_long else self.causes).add(RELEASED)
        elif process.ready_at is not None and process.seat != MOLD:
            (self.excuses if self.state.mode is Mode.SERVING else self.causes).add(RELEASED)
        elif boots_too_long and process.ready_at is None and not self.ever_ready:
            self.causes.add(BOOT_BAD)

    def check(self) -> None:
        """What must hold after every event."""
        state = self.state
        if state.mode is Mode.SERVING:
            for seat in (*state.seats, state.keeper):
                waits = seat.phase is Phase.WAITING and (not self.ever_ready or state.molds.awaited)
                assert seat.alive or seat.retry_at < inf or waits, f"forgotten: {seat}"
            one_is_up = any(seat.alive for seat in state.seats) or not state.molds.wanted
            assert one_is_up or state.molds.seats, "all wait for a mold that nobody makes"
            assert sum(seat.phase is Phase.RUNNING for seat in state.molds.seats) <= 1, "two molds fork"
            for process in self.living.values():
                homeless = process.seat >= len(state.seats)
                assert not homeless or self.was_told(process), f"nobody told {process} that its seat is gone"
        elif state.mode is not Mode.ENDED:
            for process in self.living.values():
                stays = process.seat == KEEPER or (process.seat == MOLD and state.mode is Mode.DRAINING)
                assert stays or self.was_told(process), f"nobody told {process} to end"
        for seat in (*state.workers, state.keeper, *state.molds.seats):
            assert seat.alive == ((seat.number, seat.incarnation) in self.living), seat
        for seat in state.workers:
            if seat.phase in {Phase.STARTING, Phase.RUNNING}:
                may_poll = seat.phase is Phase.RUNNING and state.polling
                assert self.living[seat.number, seat.incarnation].polls is may_poll, seat
        self.isolates.check()
        held = sum(process.held for process in self.living.values())
        assert held <= self.plan.concurrency, f"{held} of {self.plan.concurrency} slots are in use"

    @staticmethod
    def was_told(process: Process) -> bool:
        """Whether it knows that it must end, or will be killed once it exists."""
        return bool(process.told_to_end or process.kills or not process.forked)

    # What processes do

    def can_be_forked(self, process: Process) -> bool:
        """Whether whoever was asked for it does what it is asked."""
        return not process.mold or not self.living[MOLD, process.mold].frozen

    def answer_fork(self, process: Process) -> Event:
        if self.rng.random() < self.forks_fail:
            del self.living[process.names]
            if process.seat == KEEPER and self.state.mode is Mode.FINISHING:
                self.causes.add(RELEASED)
            return events.SpawnFailed(process.seat, process.incarnation, "EAGAIN")
        process.forked, process.forked_at = True, self.now
        return events.ChildForked(process.seat, process.incarnation, self.rng.randint(2, 99_999))

    def become_ready(self, process: Process) -> None:
        process.ready_at = self.now
        self.ever_ready |= process.seat >= 0 and not process.told_to_end
        hazards = ("a thread",) if process.seat == MOLD and self.rng.random() < self.unsafe else ()
        process.frozen = process.seat == MOLD and self.rng.random() < self.freezes
        self.feed(events.ChildReady(process.seat, process.incarnation, "py-std", hazards=hazards))

    def use_slots(self, process: Process) -> None:
        """Applies the oldest order, takes or gives back slots, and is seen by the shell."""
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
        self.feed(events.BootFailed(process.seat, process.incarnation, code, "no", "Traceback"))
        self.end(process, code << 8)

    def stop_as_told(self, process: Process) -> None:
        if process.seat != KEEPER and process.ready_at is not None:
            released = self.rng.choice([0, 0, 2])
            if released and self.state.mode is not Mode.SERVING:
                self.causes.add(RELEASED)
            self.feed(events.ChildStopped(process.seat, process.incarnation, released, ()))
        self.end(process, 0)

    def end(self, process: Process, status: int, running: int = 0) -> None:
        del self.living[process.names]
        self.past.append(process.names)
        self.isolates.worker_ended(process)
        if process.seat == MOLD:
            for asked in [one for one in self.living.values() if one.mold == process.incarnation]:
                if not asked.forked:
                    del self.living[asked.names]
            self.isolates.mold_ended(process.incarnation)
            self.feed(events.ChildExited(process.seat, process.incarnation, status, running))
            return
        present = self.state.seat(process.seat).incarnation if process.seat < len(self.state.seats) else 0
        if process.seat == KEEPER:
            self.remember_keeper_end(status)
        elif self.state.mode is not Mode.SERVING:
            self.causes |= {RELEASED} if running else set()
        elif process.incarnation == present and (
            process.ready_at is None or (self.now - process.ready_at < 2 and not running)
        ):
            self.remember_short_end()
        self.feed(events.ChildExited(process.seat, process.incarnation, status, running))

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
