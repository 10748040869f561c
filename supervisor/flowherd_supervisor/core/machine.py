"""The supervisor's brain: `decide(state, event, now, rng) -> (state, actions)`; it does nothing itself.

Laws of this file, tested with random histories against a model of the world:

1. At most one process a seat: Spawn is ordered only for a seat without one.
2. A process is never signalled after its exit, and killed at most once.
3. Time alone ends a stop: once one has begun, no silence of a child can hold it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from flowherd.exits import Exit as Code
from flowherd_supervisor.core import events
from flowherd_supervisor.core.actions import (
    Action,
    Drain,
    Exit,
    FinishKeeper,
    Kill,
    Level,
    Note,
    Release,
    Spawn,
    SwitchPolling,
)
from flowherd_supervisor.core.events import KEEPER, Event
from flowherd_supervisor.core.restarts import Rng
from flowherd_supervisor.core.state import Mode, Phase, Seat, State

RELEASE_WITHIN_S = 0.5  # on the second signal; then SIGKILL
DRAIN_MARGIN_S = 1.5  # beyond the graceful timeout: workers give back what is left
SETTLE_WITHIN_S = 5.0  # the keeper's last minute after a calm stop
SETTLE_IN_HURRY_S = 0.4
KEEPER_MARGIN_S = 0.1
KEEPER_ENDS, KEEPER_WINDOW_S = 3, 10.0
SPAWN_RETRY_S = 1.0


def decide(state: State, event: Event, now: float, rng: Rng) -> tuple[State, Sequence[Action]]:
    """What follows from one fact. Unknown incarnations belong to the past and change nothing."""
    turn = _Turn(state, now, rng)
    match event:
        case events.Started():
            turn.spawn(state.keeper)
            turn.spawn(state.seats[0])
        case events.StopRequested(times):
            turn.stop_requested(times)
        case events.PollingSwitched(on):
            turn.switch_polling(on=on)
        case events.CredentialsRefused(detail):
            turn.note("credentials_refused", Level.ERROR, reason=detail)
            turn.begin_drain(Code.CREDENTIALS_REFUSED)
        case events.TimePassed():
            turn.time_passed()
        case _ if event.incarnation != state.seat(event.seat).incarnation:
            turn.note("late_news", process=event.seat, incarnation=event.incarnation)
        case _:
            _about_a_child(turn, state.seat(event.seat), event)
    turn.finish_if_empty()
    return turn.state, turn.actions


def _about_a_child(turn: _Turn, seat: Seat, event: Event) -> None:
    match event:
        case events.ChildForked(pid=pid):
            turn.forked(seat, pid)
        case events.SpawnFailed(reason=reason):
            turn.spawn_failed(seat, reason)
        case events.ChildReady():
            turn.ready(seat, event)
        case events.BootFailed():
            turn.boot_failed(seat, event)
        case events.ChildStopped(released=released, undelivered=undelivered):
            if released or undelivered:
                turn.note("work_given_back", Level.WARNING, process=seat.number, released=released)
                turn.blame(Code.RELEASED)
        case events.ChildExited(status=status, running=running):
            turn.exited(seat, status, running)


class _Turn:
    """One decision under way: the state so far and the orders so far."""

    def __init__(self, state: State, now: float, rng: Rng) -> None:
        self.state = state
        self.now = now
        self.rng = rng
        self.actions: list[Action] = []

    def note(self, event: str, level: Level = Level.INFO, report: str = "", **fields: object) -> None:
        """Adds a line for the log."""
        self.actions.append(Note(event, fields, level, report))

    def put(self, seat: Seat) -> None:
        """Remembers a seat."""
        self.state = self.state.with_seat(seat)

    def blame(self, code: Code) -> None:
        """The first reason for a bad exit code stays."""
        self.state = replace(self.state, exit_code=self.state.exit_code or code)

    # Births

    def spawn(self, seat: Seat) -> None:
        """Orders the seat's next incarnation."""
        assert not seat.alive, seat
        seat = replace(
            seat, phase=Phase.STARTING, incarnation=seat.incarnation + 1, started_at=self.now, ready_at=None, retry_at=inf
        )
        self.put(seat)
        self.actions.append(Spawn(seat.number, seat.incarnation, seat.limit))

    def forked(self, seat: Seat, pid: int) -> None:
        """A process exists; one that was made while the stop began dies again."""
        self.note("process_started", process=seat.number, pid=pid, incarnation=seat.incarnation)
        if self.state.mode is not Mode.SERVING and seat.number != KEEPER:
            self.kill(seat)

    def spawn_failed(self, seat: Seat, reason: str) -> None:
        """Tries again in a while; the others go on (faults.md P12)."""
        self.note("process_not_started", Level.WARNING, process=seat.number, reason=reason, again_in_s=SPAWN_RETRY_S)
        if self.state.mode is Mode.SERVING or seat.number == KEEPER:
            self.put(replace(seat, phase=Phase.BACKOFF, retry_at=self.now + SPAWN_RETRY_S))
        else:
            self.put(seat.with_phase(Phase.STOPPED))

    def ready(self, seat: Seat, event: events.ChildReady) -> None:
        """The first worker's Ready lets its siblings follow: a bad app has failed only once by then."""
        if seat.phase is not Phase.STARTING:
            return
        self.put(replace(seat, phase=Phase.RUNNING, ready_at=self.now))
        took_ms = round((self.now - seat.started_at) * 1000, 1)
        self.note("process_ready", process=seat.number, took_ms=took_ms)
        if seat.number == KEEPER:
            return
        if not self.state.polling:
            self.actions.append(SwitchPolling(seat.number, seat.incarnation, on=False))
        if not self.state.ever_ready:
            self.state = replace(self.state, ever_ready=True)
            self.note("app_loaded", worker=event.worker_type, activities=dict(event.activities))
            for other in self.state.seats:
                if other.phase is Phase.WAITING:
                    self.spawn(other)

    def boot_failed(self, seat: Seat, event: events.BootFailed) -> None:
        """Before any worker was ever ready the app is bad: stop. Later it is a short end like others."""
        self.note("boot_failed", Level.ERROR, event.report, process=seat.number, reason=event.message)
        if not self.state.ever_ready or seat.number == KEEPER:
            self.begin_release(Code(event.code))

    # Deaths

    def exited(self, seat: Seat, status: int, running: int) -> None:
        """There are four cases: the keeper; the end of a stop; an end that was ordered; a crash."""
        self.put(seat.with_phase(Phase.STOPPED))
        if seat.number == KEEPER:
            self._keeper_exited(seat, status)
        elif self.state.mode is not Mode.SERVING:
            self.note("process_exited", process=seat.number, status=status, running=running)
            if running:
                self.blame(Code.RELEASED)
        else:
            self._crashed(seat, status, running)

    def _crashed(self, seat: Seat, status: int, running: int) -> None:
        policy = self.state.plan.restarts
        short = policy.is_short(ready_at=seat.ready_at, ended_at=self.now, running=running)
        ends = policy.recent((*self.state.short_ends, self.now) if short else self.state.short_ends, self.now)
        self.state = replace(self.state, short_ends=ends)
        in_row = seat.short_in_row + 1 if short else 0
        wait_s = policy.wait_s(in_row, since_start_s=self.now - seat.started_at, rng=self.rng)
        retry_at = self.now + wait_s
        self.put(
            replace(seat, phase=Phase.BACKOFF, retry_at=retry_at, short_in_row=in_row, restarts=seat.restarts + 1)
        )
        self.note(
            "process_died", Level.WARNING, process=seat.number, status=status, running=running,
            again_in_s=round(wait_s, 2),
        )  # fmt: skip
        if policy.gives_up(ends, self.now):
            self.note("crash_loop", Level.ERROR, short_ends=len(ends), window_s=policy.window_s)
            self.begin_drain(Code.CRASH_LOOP)
        elif wait_s <= 0:
            self.spawn(self.state.seat(seat.number))

    def _keeper_exited(self, seat: Seat, status: int) -> None:
        """A keeper restarts at once, also during a stop: somebody must settle. Three ends in 10 s are a defect."""
        if self.state.mode is Mode.FINISHING:
            self.actions.append(Exit(self.state.exit_code))
            return
        ends = tuple(at for at in (*self.state.keeper_ends, self.now) if self.now - at < KEEPER_WINDOW_S)
        self.state = replace(self.state, keeper_ends=ends)
        self.note("keeper_died", Level.ERROR, status=status)
        if len(ends) >= KEEPER_ENDS:
            self.begin_drain(Code.INTERNAL)
        if len(ends) <= KEEPER_ENDS:
            self.spawn(replace(self.state.keeper, restarts=seat.restarts + 1))

    def kill(self, seat: Seat) -> None:
        """SIGKILL, once."""
        if seat.alive and seat.phase is not Phase.DYING:
            self.put(seat.with_phase(Phase.DYING))
            self.actions.append(Kill(seat.number, seat.incarnation))

    # Stops

    def stop_requested(self, times: int) -> None:
        """First: drain. Second: give everything back now. Third: kill."""
        match self.state.mode:
            case Mode.SERVING if times == 1:
                self.begin_drain(Code.CLEAN)
            case Mode.SERVING | Mode.DRAINING:
                self.begin_release(Code.CLEAN)
            case Mode.RELEASING | Mode.FINISHING:
                self._kill_workers()

    def begin_drain(self, code: Code) -> None:
        """Workers finish what runs; those that hold nothing yet are killed."""
        self.blame(code)
        if self.state.mode is not Mode.SERVING:
            return
        plan = self.state.plan
        patience_s = plan.graceful_timeout_s + DRAIN_MARGIN_S
        self.state = replace(self.state, mode=Mode.DRAINING, deadline=self.now + patience_s)
        self.note("draining", within_s=plan.graceful_timeout_s)
        for seat in self.state.seats:
            if seat.phase is Phase.RUNNING:
                self.put(seat.with_phase(Phase.DRAINING))
                self.actions.append(Drain(seat.number, seat.incarnation, plan.graceful_timeout_s))
            else:
                self._drop(seat)

    def begin_release(self, code: Code) -> None:
        """Workers get half a second to give everything back."""
        self.blame(code)
        if self.state.mode in {Mode.RELEASING, Mode.FINISHING}:
            return
        self.state = replace(self.state, mode=Mode.RELEASING, deadline=self.now + RELEASE_WITHIN_S)
        self.note("releasing", within_s=RELEASE_WITHIN_S)
        for seat in self.state.seats:
            if seat.phase in {Phase.RUNNING, Phase.DRAINING}:
                self.put(seat.with_phase(Phase.DRAINING))
                self.actions.append(Release(seat.number, seat.incarnation, RELEASE_WITHIN_S))
            else:
                self._drop(seat)

    def _drop(self, seat: Seat) -> None:
        """Ends a seat that holds no work."""
        if seat.phase is Phase.STARTING:
            self.kill(seat)
        elif not seat.alive:
            self.put(seat.with_phase(Phase.STOPPED))

    def _kill_workers(self) -> None:
        for seat in self.state.seats:
            if seat.alive and seat.phase is not Phase.DYING:
                self.note("process_killed", Level.WARNING, process=seat.number, reason="the time to stop is up")
                self.blame(Code.RELEASED)
                self.kill(seat)

    def finish_if_empty(self) -> None:
        """Once no worker is left the keeper settles what they held, and ends."""
        state = self.state
        if state.mode not in {Mode.DRAINING, Mode.RELEASING} or any(seat.alive for seat in state.seats):
            return
        within_s = SETTLE_WITHIN_S if state.mode is Mode.DRAINING else SETTLE_IN_HURRY_S
        self.state = replace(state, mode=Mode.FINISHING, deadline=self.now + within_s + KEEPER_MARGIN_S)
        if state.keeper.alive:
            self.actions.append(FinishKeeper(state.keeper.incarnation, within_s))
        else:
            self.actions.append(Exit(state.exit_code))

    # Time and polling

    def time_passed(self) -> None:
        """Starts what has waited long enough, ends what has taken too long."""
        for seat in (*self.state.seats, self.state.keeper):
            if seat.phase is Phase.BACKOFF and self.now >= seat.retry_at:
                self.spawn(seat)
            elif seat.phase is Phase.STARTING and self.now >= seat.started_at + self.state.plan.boot_timeout_s:
                self._boot_timed_out(seat)
        if self.now >= self.state.deadline:
            self._patience_ended()

    def _boot_timed_out(self, seat: Seat) -> None:
        timeout_s = self.state.plan.boot_timeout_s
        self.note("boot_timed_out", Level.ERROR, process=seat.number, after_s=timeout_s, remedy="--boot-timeout")
        self.kill(seat)
        if not self.state.ever_ready and seat.number != KEEPER:
            self.begin_release(Code.BOOT_FAILED)

    def _patience_ended(self) -> None:
        self.state = replace(self.state, deadline=inf)
        if self.state.mode is Mode.FINISHING:
            self.note("keeper_killed", Level.ERROR, reason="it could not settle in time")
            self.blame(Code.RELEASED)
            self.kill(self.state.keeper)
        else:
            self._kill_workers()

    def switch_polling(self, *, on: bool) -> None:
        """Tells every worker, and those to come."""
        self.state = replace(self.state, polling=on)
        self.note("polling_resumed" if on else "polling_paused")
        for seat in self.state.seats:
            if seat.phase is Phase.RUNNING:
                self.actions.append(SwitchPolling(seat.number, seat.incarnation, on=on))
