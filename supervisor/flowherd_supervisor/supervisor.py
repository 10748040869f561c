"""The loop: wait, decide, perform. No event loop, no thread, no HTTP, no user code: this process forks."""

from __future__ import annotations

import random
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import msgspec
import structlog

from flowherd.core import messages
from flowherd.ledger import Berth, Cause, Cell, Ledger
from flowherd.ledger import State as RecordState
from flowherd.link import LinkClosed
from flowherd_supervisor import notes
from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import KEEPER, Event
from flowherd_supervisor.core.machine import decide
from flowherd_supervisor.core.state import Mode, Phase, State
from flowherd_supervisor.inbox import Inbox
from flowherd_supervisor.notify import ServiceManager
from flowherd_supervisor.processes import Birth, Handle, Processes
from flowherd_supervisor.watch import Watch

if TYPE_CHECKING:
    from flowherd.bells import Bells
    from flowherd_supervisor.core.plan import Plan

Births = Callable[[actions.Spawn, Berth | None], Birth]

log = structlog.stdlib.get_logger("flowherd")


class Supervisor:
    """Keeps a plan's processes alive until told to stop.

    Args:
        births: says how to make the process that a Spawn orders: the keeper, or the worker of a berth.
        reread: reads the settings again for HUP; None when they are wrong or ask for what only a restart can do.

    """

    def __init__(
        self, plan: Plan, ledger: Ledger, bells: Bells, births: Births, reread: Callable[[], Plan | None]
    ) -> None:
        self._state = State.new(plan)
        self._ledger = ledger
        self._bells = bells
        self._births = births
        self._reread = reread
        self._processes = Processes()
        self._inbox = Inbox()
        self._rng = random.Random()
        self._watch = Watch(ledger)
        self._look_at = 0.0
        self._told: messages.SupervisorState | None = None
        self._service_manager = ServiceManager()
        self._exit_code: int | None = None

    def run(self) -> int:
        """Supervises until everything has ended; returns the exit code."""
        try:
            self._feed(events.Started())
            while self._exit_code is None:
                heard = self._inbox.wait(self._patience_s())
                for event in self._gather(heard):
                    self._feed(event)
                self._feed(events.TimePassed())
            return self._exit_code
        finally:
            self._inbox.close()

    def _patience_s(self) -> float:
        """Until time alone changes something, or the next look at the ledger is due."""
        return min(self._state.next_deadline, self._look_at) - time.monotonic()

    # What happened

    def _gather(self, heard: list[signal.Signals]) -> Iterator[Event]:
        """Reaps, then reads all waiting messages, then tells of the exits: last words come before an end."""
        ended = self._processes.reap()
        for handle in (*self._processes, *(handle for handle, _ in ended)):
            yield from self._read(handle)
        for handle, status in ended:
            yield self._bury(handle, status)
        for number in heard:
            yield from self._understand(number)
        now = time.monotonic()
        if now >= self._look_at:
            yield from _contained(lambda: self._watch.look(self._state, self._processes, now))
            self._look_at = inf
        self._look_at = min(self._look_at, now + self._watch.patience_s(self._state))

    def _understand(self, number: signal.Signals) -> Iterator[Event]:
        match number:
            case signal.SIGHUP:
                yield from _contained(self._reload)
            case signal.SIGTTIN:
                yield events.ScaleRequested(self._state.plan.processes + 1)
            case signal.SIGTTOU:
                yield events.ScaleRequested(self._state.plan.processes - 1)
            case _:
                yield from _SIGNALS.get(number, ())

    def _reload(self) -> Iterator[Event]:
        if (plan := self._reread()) is not None:
            yield events.ReloadRequested(plan)

    def _read(self, handle: Handle) -> Iterator[Event]:
        try:
            while (received := handle.link.receive()) is not None:
                event = _translate(handle, received[0])
                if event is not None:
                    yield event
        except LinkClosed:
            self._inbox.forget(handle.link)

    def _bury(self, handle: Handle, status: int) -> Event:
        """Ends the berth, so that the keeper settles it, and forgets the process."""
        self._inbox.forget(handle.link)
        running = 0
        if handle.berth is not None:
            running = sum(record.state is RecordState.RUNNING for record in handle.berth.records())
            handle.berth.end(self._cause(handle, handle.berth), status)
            self._bells.ring_keeper()
        if stacks := handle.last_words():
            log.error("stacks_of_dead_process", process=handle.seat, pid=handle.pid, stacks=stacks)
        handle.close()
        return events.ChildExited(handle.seat, handle.incarnation, status, running)

    def _cause(self, handle: Handle, berth: Berth) -> Cause:
        """Only a death that we did not order is charged to the activities that ran."""
        if berth.get(Cell.GUILTY):
            return Cause.HUNG
        seat = self._state.find(handle.seat, handle.incarnation)
        ordered = self._state.mode is not Mode.SERVING or (seat is not None and seat.phase is Phase.DYING)
        return Cause.STOPPED if ordered else Cause.CRASH

    # What follows

    def _feed(self, event: Event) -> None:
        """Decides on one event and on all that its actions bring about at once."""
        waiting = deque([event])
        while waiting:
            self._state, orders = decide(self._state, waiting.popleft(), time.monotonic(), self._rng)
            for order in orders:
                waiting.extend(_contained(partial(self._perform, order)))
        self._tell_keeper()
        self._tell_service_manager()

    def _perform(self, order: actions.Action) -> list[Event]:
        match order:
            case actions.Spawn():
                return [self._spawn(order)]
            case actions.Note():
                notes.say(order)
            case actions.Exit(code):
                self._exit_code = code
            case actions.DumpStacks():
                for handle in self._processes:
                    self._send(handle, messages.DumpStacks())
            case _:
                child = self._processes.find(order.seat, order.incarnation)
                if child is not None:
                    self._perform_on(child, order)
        return []

    def _perform_on(self, handle: Handle, order: actions.ToChild) -> None:
        """An order to one process that has not been reaped."""
        match order:
            case actions.Kill():
                self._processes.kill(handle)
            case actions.Abort(guilty=guilty):
                assert handle.berth is not None, "only workers hang"
                handle.berth.put(Cell.GUILTY, guilty)
                self._processes.abort(handle)
            case actions.SetSlots(limit=limit, n=n):
                self._send(handle, messages.SetSlots(limit, n))
            case actions.Drain(within_s=within_s):
                self._send(handle, messages.Drain(within_s))
            case actions.Release(within_s=within_s):
                self._send(handle, messages.Release(within_s))
            case actions.SwitchPolling(on=on):
                self._send(handle, messages.Resume() if on else messages.Quiet())
            case actions.FinishKeeper(within_s=within_s):
                self._send(handle, messages.Finish(within_s))

    def _spawn(self, order: actions.Spawn) -> Event:
        berth = None
        if order.seat != KEEPER:
            berth = self._ledger.free_berth()
            if berth is None:
                return events.SpawnFailed(order.seat, order.incarnation, "every berth is still being settled")
            berth.open(seat=order.seat, incarnation=order.incarnation, now=time.monotonic())
        try:
            handle = self._processes.spawn(order.seat, order.incarnation, berth, self._births(order, berth))
        except Exception as error:  # noqa: BLE001 - the brain waits for an answer, whatever it is
            if berth is not None:
                berth.end(Cause.CLEAN)
                self._bells.ring_keeper()
            return events.SpawnFailed(order.seat, order.incarnation, str(error) or repr(error))
        self._inbox.watch(handle.link)
        if berth is not None:
            berth.put(Cell.PID, handle.pid)
            self._introduce(handle)
        else:
            self._told = None
            for other in self._processes:
                self._introduce(other)
        return events.ChildForked(order.seat, order.incarnation, handle.pid)

    def _introduce(self, handle: Handle) -> None:
        """Gives the keeper a worker's pidfd: it ends what outlives the supervisor."""
        keeper = self._processes.find(KEEPER, self._state.keeper.incarnation)
        if keeper is None or handle.berth is None:
            return
        try:
            keeper.link.send(messages.WatchChild(handle.berth.number, handle.pid), [handle.pidfd])
        except LinkClosed:
            log.debug("keeper_not_told", pid=handle.pid)

    def _send(self, handle: Handle, message: messages.Message) -> None:
        try:
            handle.link.send(message)
        except LinkClosed:
            log.debug("order_not_sent", process=handle.seat, order=type(message).__name__)

    def _tell_service_manager(self) -> None:
        state, wanted = self._state, self._state.plan.processes
        status = f"STATUS={state.ready} of {wanted} processes ready"
        if state.mode is not Mode.SERVING:
            self._service_manager.say("STOPPING=1", f"STATUS={state.mode.value}")
        elif state.ready >= wanted:
            self._service_manager.say("READY=1", status)
        else:
            self._service_manager.say(status)

    def _tell_keeper(self) -> None:
        """Sends the keeper what `status` shows of the supervisor, when it has changed."""
        state = self._state
        told = messages.SupervisorState(
            state=state.mode.value,
            wanted=state.plan.processes,
            total_slots=state.plan.concurrency,
            restarts={seat.number: seat.restarts for seat in state.seats if seat.restarts},
        )
        keeper = self._processes.find(KEEPER, state.keeper.incarnation)
        if told != self._told and keeper is not None:
            self._told = told
            self._send(keeper, told)


def _contained(work: Callable[[], Iterable[Event]]) -> list[Event]:
    """The one catch-all: a defect of ours is logged, and the host goes on (faults.md P16)."""
    try:
        return list(work())
    except Exception as error:
        log.error("supervisor_error", note="please report this; the host goes on", exc_info=error)
        return []


_SIGNALS: dict[signal.Signals, tuple[Event, ...]] = {
    signal.SIGTERM: (events.StopRequested(),),
    signal.SIGINT: (events.StopRequested(),),
    signal.SIGQUIT: (events.StopRequested(times=2),),
    signal.SIGTSTP: (events.PollingSwitched(on=False),),
    signal.SIGCONT: (events.PollingSwitched(on=True),),
    signal.SIGUSR1: (events.StacksRequested(),),
}


def _translate(handle: Handle, data: bytes) -> Event | None:
    """A child's message as a fact; one that cannot be read is named and dropped."""
    try:
        message = messages.decode_upward(data)
    except msgspec.DecodeError as error:
        log.error("unreadable_message", process=handle.seat, reason=str(error))
        return None
    match message:
        case messages.Ready(worker_type, activities):
            return events.ChildReady(handle.seat, handle.incarnation, worker_type, activities)
        case messages.BootFailed(code, text, report):
            return events.BootFailed(handle.seat, handle.incarnation, code, text, report)
        case messages.Stopped(released, undelivered):
            return events.ChildStopped(handle.seat, handle.incarnation, released, undelivered)
        case messages.CredentialsRefused(detail):
            return events.CredentialsRefused(detail)
