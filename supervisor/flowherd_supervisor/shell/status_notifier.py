"""Sends the supervisor's state to the keeper and to the service manager."""

from __future__ import annotations

import os
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import structlog

from flowherd.counted import counted
from flowherd.ledger import Cell, Claim, Clock, Life
from flowherd.link import bounded_messages, messages
from flowherd.link.link import LinkClosed
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.health import Polling, is_well
from flowherd_supervisor.core.state import Mode
from flowherd_supervisor.shell.event_log import readable
from flowherd_supervisor.shell.service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowherd.ledger import Ledger
    from flowherd_supervisor.core.actions import Note
    from flowherd_supervisor.core.state import State
    from flowherd_supervisor.processes.process_table import Handle, IsolateHandle, Processes

NOTES_KEPT = 50

log = structlog.stdlib.get_logger("flowherd")


class Notifier:
    """Notifies the keeper, for `status` and for the case that the supervisor dies, and systemd."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._told: messages.SupervisorState | None = None
        self._serves: messages.Serves | None = None
        self._noted: deque[messages.Noted] = deque(maxlen=NOTES_KEPT)
        self._missed_by_keeper = False
        self._service_manager = ServiceManager()
        self._beat_at = 0.0

    def introduce(self, state: State, handle: Handle) -> None:
        """Sends the keeper a worker's pidfd, so that it can end orphans; a new keeper gets everything known."""
        if handle.index != KEEPER:
            self._give_pidfd(state, handle)
            return
        self._told = None
        self._give_pidfds(state)
        for message in (*filter(None, [self._serves]), *self._noted):
            self._send_keeper(state, message)

    def introduce_isolate(self, state: State, isolate: IsolateHandle) -> None:
        """Sends the keeper the pidfd of an isolate; before the reap its pid cannot be reused."""
        try:
            pidfd = os.pidfd_open(isolate.pid)
        except OSError as error:
            log.warning("isolate_not_watched", pid=isolate.pid, reason=str(error))
            return
        try:
            self._send_keeper(state, messages.WatchIsolate(isolate.pid), [pidfd])
        finally:
            os.close(pidfd)

    def isolate_reaped(self, state: State, isolate: IsolateHandle) -> None:
        """Tells the keeper to forget an isolate."""
        self._send_keeper(state, messages.IsolateReaped(isolate.pid))

    def _give_pidfds(self, state: State) -> None:
        for worker in self._processes:
            self._give_pidfd(state, worker)
        for isolate in self._processes.isolates:
            self.introduce_isolate(state, isolate)

    def _give_pidfd(self, state: State, worker: Handle) -> None:
        if worker.pidfd >= 0:
            for segment in worker.segments:
                self._send_keeper(state, messages.WatchChild(segment.number, worker.pid), [worker.pidfd])

    def pass_on(self, state: State, note: Note) -> None:
        """Forwards a note to the keeper for its event stream; a keeper that starts later gets the newest notes."""
        noted = bounded_messages.noted(time.time(), note.level.value, note.event, readable(note.fields))
        self._noted.append(noted)
        self._send_keeper(state, noted)

    def serves(self, state: State, message: messages.Serves) -> None:
        """Forwards the activities and their parameters to the keeper, also to one that starts later."""
        self._serves = message
        self._send_keeper(state, message)

    def tell(self, state: State) -> None:
        """Sends what has changed, if anything."""
        self._tell_keeper(state)
        self._tell_service_manager(state)

    def _tell_keeper(self, state: State) -> None:
        current = messages.SupervisorState(
            state=state.mode.value,
            wanted=state.plan.workers,
            total_slots=state.plan.concurrency,
            restarts={process.number: process.restarts for process in state.processes if process.restarts},
            causes={number: dict(counts) for number, counts in state.causes.items()},
            polling=state.polling,
            most=state.plan.most,
            configured=state.configured,
            threads=state.plan.threads is not None,
            moved={
                name: messages.Move(one.place, one.longest_s)
                for name, one in state.blockers.items()
                if one.is_moved
            },
            kept=tuple(sorted(state.kept)),
            moves=dict(state.moves),
        )
        if self._missed_by_keeper:
            self._missed_by_keeper = False
            self._give_pidfds(state)
        if current != self._told and self._send_keeper(state, current):
            self._told = current

    def _send_keeper(self, state: State, message: messages.Message, fds: Sequence[int] = ()) -> bool:
        """Returns False if no keeper gets it: its successor gets everything, and one that reads again what matters."""
        keeper = self._processes.find(KEEPER, state.keeper.incarnation)
        if keeper is None:
            return False
        try:
            keeper.link.send(message, fds)
        except LinkClosed:
            log.debug("keeper_not_told", message=type(message).__name__)
            self._missed_by_keeper = True
            return False
        return True

    def beat(self, state: State, ledger: Ledger, now: float, woke_at: float) -> None:
        """Feeds the service manager's watchdog while the host is healthy.

        Args:
            state: the supervisor's state.
            ledger: the ledger with the workers' polls.
            now: monotonic seconds.
            woke_at: end of this process's last freeze, in monotonic seconds.

        """
        every_s = self._service_manager.beat_every_s
        if now >= self._beat_at and every_s < inf:
            self._beat_at = now + every_s
            if is_well(state, polling_in(ledger), now, woke_at):
                self._service_manager.beat()

    def patience_s(self, now: float) -> float:
        """Seconds until the next `WATCHDOG=1` is due, infinity without a watchdog."""
        return self._beat_at - now if self._service_manager.beat_every_s < inf else inf

    def _tell_service_manager(self, state: State) -> None:
        status = f"STATUS={state.ready} of {counted(state.plan.processes, 'process')} ready"
        if state.mode is not Mode.SERVING:
            self._service_manager.say("STOPPING=1", f"STATUS={state.mode.value}")
        elif state.rolling:
            self._service_manager.say(
                "RELOADING=1", f"STATUS=replacing {counted(len(state.rolling), 'process')}"
            )
        elif state.ready >= state.plan.processes:
            self._service_manager.say("READY=1", status)
        else:
            self._service_manager.say(status)


def polling_in(ledger: Ledger) -> Iterator[Polling]:
    """Yields the poll times of each live worker from its segment."""
    for segment in ledger.segments:
        if segment.life is Life.LIVE and segment.readable:
            limit = segment.get(Cell.LIMIT)
            yield Polling(
                segment.clock(Clock.LAST_GOOD_POLL),
                segment.clock(Clock.LAST_BAD_POLL),
                is_full=limit > 0 and segment.get(Cell.RUNNING) >= limit,
                is_reporting=any(record.claim is Claim.REPORTING for record in segment.records()),
            )
