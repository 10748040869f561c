"""The loop: wait, decide, perform. No event loop, no thread, no HTTP, no user code: this process forks."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import deque
from dataclasses import replace
from functools import partial
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Protocol

import structlog

from flowherd.awake_clock import STEP_S, AwakeClock
from flowherd.ledger import Cause, Cell, Ledger, Segment
from flowherd.link import messages
from flowherd.link.link import LinkClosed
from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import ZYGOTE, Event
from flowherd_supervisor.core.exits_and_restarts import cause_of
from flowherd_supervisor.core.state import State
from flowherd_supervisor.core.state_machine import decide
from flowherd_supervisor.processes.contain_defects import contained, found_by, say_defect
from flowherd_supervisor.processes.isolate_spawner import IsolateSpecs, Isolation
from flowherd_supervisor.processes.process_table import Child, Handle, IsolateHandle, Processes
from flowherd_supervisor.processes.spawner import ProcessSpecs, Spawner
from flowherd_supervisor.shell import event_log
from flowherd_supervisor.shell.inputs_to_events import fact_of, fact_of_signal, message_of
from flowherd_supervisor.shell.ledger_watch import LedgerWatch
from flowherd_supervisor.shell.segment_checks import SegmentChecks
from flowherd_supervisor.shell.status_notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd.ledger.wakeups import Wakeups
    from flowherd_supervisor.core.plan import Plan
    from flowherd_supervisor.shell.inbox import Inbox

SOON_S = 1.0  # until the next try after a defect of flowherd itself

log = structlog.stdlib.get_logger("flowherd")


class Host(ProcessSpecs, IsolateSpecs, Protocol):
    """The services that a supervisor needs from its host."""

    def reread(self) -> Plan | str:
        """Reads the settings again for HUP; returns the reason if they are wrong or need a restart."""
        ...


class Supervisor:
    """Keeps a plan's processes alive until it is stopped.

    Args:
        plan: the processes to keep alive.
        ledger: the table that all processes share.
        wakeups: wake the keeper and the workers.
        host: recipes for processes, and settings read again.
        inbox: the signals since the host began; its maker closes it, or ignores all further signals.
        now: returns monotonic seconds.

    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        wakeups: Wakeups,
        host: Host,
        inbox: Inbox,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = State.new(plan)
        self._ledger = ledger
        self._wakeups = wakeups
        self._host = host
        self._processes = Processes()
        self._spawner = Spawner(self._processes, ledger, wakeups, host)
        self._isolation = Isolation(
            self._processes, host, lambda isolate: self._notifier.introduce_isolate(self._state, isolate)
        )
        self._inbox = inbox
        self._rng = random.Random()
        self._checks = SegmentChecks()
        self._watch = LedgerWatch(ledger, checks=self._checks)
        self._now = now
        self._clock = AwakeClock(now())
        self._look_at = -inf
        self._notifier = Notifier(self._processes)
        self._exit_code: int | None = None
        self._why = ""  # the reason for giving up, if any
        self._undecided: list[Event] = []
        self._again_at = inf

    def run(self) -> int:
        """Supervises until everything has ended; returns the exit code."""
        self._feed(events.Started())
        while self._exit_code is None:
            self._go_round(self._inbox.wait(contained(self._patience_s, SOON_S)))
        return self._exit_code

    def _go_round(self, heard: list[signal.Signals]) -> None:
        for event in chain(self._take_undecided(), self._gather(heard)):
            self._feed(event)
        self._feed(events.TimePassed())
        contained(
            lambda: self._notifier.beat(self._state, self._ledger, self._now(), self._clock.woke_at), None
        )

    def _take_undecided(self) -> Sequence[Event]:
        """Returns exits on which `decide` failed, once a second: an exit must not be lost."""
        if self._awake_s() < self._again_at:
            return ()
        self._again_at, undecided, self._undecided = inf, self._undecided, []
        return undecided

    def _patience_s(self) -> float:
        """Seconds until the next deadline, ledger scan or watchdog beat.

        At most `STEP_S` while a deadline is pending: a freeze within one wait cannot be detected.
        """
        now, awake_s = self._now(), self._awake_s()
        due_at = min(self._state.next_deadline, self._look_at, self._again_at)
        wait_s = min(due_at - awake_s, self._notifier.patience_s(now))
        if self._state.next_deadline < inf or self._watch.leases_are_held:
            wait_s = min(wait_s, STEP_S)
        self._clock.waits(now + max(wait_s, 0.0))
        return wait_s

    def _awake_s(self) -> float:
        """The time for decisions: seconds that this process was frozen do not count against any process."""
        return self._clock.read(self._now())

    # Inputs

    def _gather(self, heard: list[signal.Signals]) -> Iterator[Event]:
        """Reaps, then reads all waiting messages, then yields the exits, so that last messages precede an exit.

        Zygotes are read first: processes they have forked may have ended already. Nothing can arrive from an ended
        zygote after this, so whatever it has not reported by now was never forked.
        """
        contained(self._processes.reap, None)
        for handle in self._processes.ending:
            if handle.index == ZYGOTE:
                handle.link.refuse_more()
        for are_zygotes in (True, False):
            for handle in (*self._processes, *self._processes.ending):
                if (handle.index == ZYGOTE) is are_zygotes:
                    yield from found_by(partial(self._read, handle))
        for child, status in self._processes.ended():
            yield self._bury(child, status)
        for number in heard:
            yield from found_by(partial(self._understand, number))
        yield from found_by(self._look)

    def _look(self) -> Iterator[Event]:
        now, awake_s = self._now(), self._awake_s()
        is_due, next_at = awake_s >= self._look_at, awake_s + contained(self._look_every_s, SOON_S)
        self._look_at = next_at if is_due else min(self._look_at, next_at)
        if is_due:
            yield from self._watch.scan(self._state, self._processes, now, awake_s)

    def _look_every_s(self) -> float:
        return self._watch.patience_s(self._state)

    def _understand(self, number: signal.Signals) -> Iterator[Event]:
        workers, reread = self._state.plan.workers, self._host.reread
        fact = contained(partial(fact_of_signal, number, workers, reread), None)
        if fact is not None:
            yield fact

    def _read(self, handle: Handle) -> Iterator[Event]:
        try:
            while (received := handle.link.receive()) is not None:
                yield from found_by(partial(self._heed, handle, *received))
        except LinkClosed:
            self._inbox.forget(handle.link)

    def _heed(self, handle: Handle, data: bytes, fds: Sequence[int]) -> Iterator[Event]:
        """Yields the events that a message leads to."""
        message = message_of(handle, data)
        match message:
            case messages.NeedIsolate() | messages.KillIsolate():
                yield from self._isolation.wanted(handle, message, fds)
                return
            case messages.Forked(key=0) | messages.ForkFailed(key=0):
                yield from self._take(self._spawner.answered(message))
            case messages.Forked() | messages.ForkFailed():
                yield from self._isolation.answered(message)
            case messages.Serves():
                self._notifier.serves(self._state, message)
            case messages.Message():
                if isinstance(message, messages.Ready):
                    contained(handle.forget_words, None)
                fact = fact_of(handle, message)
                if isinstance(fact, signal.Signals):
                    yield from self._understand(fact)
                elif fact is not None:
                    yield fact
        for fd in fds:
            os.close(fd)  # unexpected descriptors

    def _bury(self, child: Child, status: int) -> Event:
        """Cleans up after a reaped child and returns its exit event; a failing step does not stop the others."""
        contained(partial(event_log.say_last_words, child), None)
        if isinstance(child, IsolateHandle):
            contained(partial(self._notifier.isolate_reaped, self._state, child), None)
            contained(child.close, None)
            return events.IsolateExited(child.index, child.incarnation, child.key, status)
        return self._bury_process(child, status)

    def _bury_process(self, handle: Handle, status: int) -> Event:
        """Ends its segments, so that the keeper settles them."""
        contained(partial(self._inbox.forget, handle.link), None)
        running = sum(contained(partial(_at_work, segment), 0) for segment in handle.segments)
        contained(partial(self._checks.restore, handle, self._state), None)
        for segment in handle.segments:
            cause = contained(partial(self._cause, handle, segment), Cause.CRASH)
            contained(partial(segment.end, cause, status), None)
        contained(self._wakeups.wake_keeper, None)
        if handle.index == ZYGOTE:
            contained(partial(self._spawner.zygote_ended, handle.incarnation), None)
        contained(handle.close, None)
        return events.ChildExited(handle.index, handle.incarnation, status, running)

    def _cause(self, handle: Handle, segment: Segment) -> Cause:
        is_guilty_known = bool(segment.get(Cell.GUILTY))
        return cause_of(self._state, handle.index, handle.incarnation, is_guilty_known=is_guilty_known)

    # Decisions and actions

    def _feed(self, event: Event) -> None:
        """Decides on one event and on the events that its actions cause at once."""
        waiting = deque([event])
        while waiting:
            for order in self._decide(waiting.popleft()):
                waiting.extend(found_by(partial(self._perform, order)))
        contained(lambda: self._notifier.tell(self._state), None)

    def _decide(self, event: Event) -> Sequence[actions.Action]:
        try:
            self._state, orders = decide(self._state, event, self._awake_s(), self._rng)
        except Exception as error:  # noqa: BLE001 - as in `contained`
            say_defect(error)
            if isinstance(event, events.ChildExited | events.IsolateExited):
                self._undecided.append(event)
                self._again_at = self._awake_s() + SOON_S
            return ()
        return orders

    def _perform(self, order: actions.Action) -> list[Event]:
        match order:
            case actions.Spawn():
                return list(self._take(self._spawner.make(order, self._state.plan.workers)))
            case actions.Note():
                if order.event == "boot_timed_out":
                    order = self._with_place(order)
                event_log.say(order)
                self._why = event_log.reason_of(order) or self._why
                self._notifier.pass_on(self._state, order)
            case actions.Exit(code):
                self._exit_code = code
                event_log.say_end(code, self._why)
            case actions.DumpStacks():
                for handle in self._processes:
                    self._send(handle, messages.DumpStacks())
            case (
                actions.SpawnIsolate()
                | actions.KillIsolate()
                | actions.TellIsolateStarted()
                | actions.TellIsolateEnded()
            ):
                return self._isolation.perform(order, self._state.plan.workers)
            case _:
                child = self._processes.find(order.index, order.incarnation)
                if child is not None:
                    self._perform_on(child, order)
        return []

    def _with_place(self, note: actions.Note) -> actions.Note:
        """Adds the line at which the import stands, if it is known."""
        places = [child.standing_at for child in self._processes if child.index == note.fields["process"]]
        return (
            replace(note, fields={**note.fields, "at": next(filter(None, places))}) if any(places) else note
        )

    def _perform_on(self, handle: Handle, order: actions.ToChild) -> None:
        """Performs an action on one process that has not been reaped."""
        match order:
            case actions.Kill():
                self._processes.kill(handle)
            case actions.Abort(guilty=guilty):
                self._checks.blame(handle, guilty)
                self._processes.abort(handle)
            case actions.SetSlots(limit=limit, n=n):
                self._send(handle, messages.SetSlots(limit, n))
            case actions.Drain(within_s=within_s, others_go_on=others_go_on):
                self._send(handle, messages.Drain(within_s, others_go_on))
            case actions.Release(within_s=within_s):
                self._send(handle, messages.Release(within_s))
            case actions.SwitchPolling(on=on):
                self._send(handle, messages.Resume() if on else messages.Quiet())
            case actions.TellMoved(moved=moved, kept=kept):
                self._send(handle, messages.SetMoved(dict(moved), kept))
            case actions.FinishKeeper(within_s=within_s):
                self._send(handle, messages.Finish(within_s))

    def _take(self, made: Handle | events.SpawnFailed | None) -> Iterator[Event]:
        """Yields the events that follow from the reply to a Spawn."""
        if isinstance(made, Handle):
            self._checks.opened(made)
            self._inbox.watch(made.link)
            self._notifier.introduce(self._state, made)
            yield events.ChildForked(made.index, made.incarnation, made.pid)
        elif made is not None:
            yield made

    def _send(self, handle: Handle, message: messages.Message) -> None:
        try:
            handle.link.send(message)
        except LinkClosed:
            log.debug("order_not_sent", process=handle.index, order=type(message).__name__)


def _at_work(segment: Segment) -> int:
    return sum(record.is_at_work and record.is_held for record in segment.records())
