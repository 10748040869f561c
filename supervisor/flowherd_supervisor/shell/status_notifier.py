"""Keeps the keeper and the service manager informed of what only the supervisor knows; it decides nothing."""

from __future__ import annotations

import os
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import structlog

from flowherd.ledger import Cell, Claim, Clock, Life
from flowherd.link import messages
from flowherd.link.link import LinkClosed
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.core.health import Polling, is_well
from flowherd_supervisor.core.state import Mode
from flowherd_supervisor.shell.event_log import readable
from flowherd_supervisor.shell.service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger import Ledger
    from flowherd_supervisor.core.actions import Note
    from flowherd_supervisor.core.state import State
    from flowherd_supervisor.processes.process_table import Handle, IsolateHandle, Processes

NOTES_KEPT = 50

log = structlog.stdlib.get_logger("flowherd")


class Notifier:
    """The listeners: the keeper, for `status` and for the day the supervisor dies, and systemd."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._told: messages.SupervisorState | None = None
        self._serves: messages.Serves | None = None
        self._noted: deque[messages.Noted] = deque(maxlen=NOTES_KEPT)
        self._service_manager = ServiceManager()
        self._beat_at = 0.0

    def introduce(self, state: State, handle: Handle) -> None:
        """Gives the keeper a worker's pidfd, since it ends what outlives the supervisor; a new keeper gets all."""
        if handle.index != KEEPER:
            self._give_pidfd(state, handle)
            return
        self._told = None
        for worker in self._processes:
            self._give_pidfd(state, worker)
        for isolate in self._processes.isolates:
            self.introduce_isolate(state, isolate)
        for message in (*filter(None, [self._serves]), *self._noted):
            self._send_keeper(state, message)

    def introduce_isolate(self, state: State, isolate: IsolateHandle) -> None:
        """Gives the keeper the pidfd of an isolate that has not been reaped: the number is its own until then."""
        keeper = self._processes.find(KEEPER, state.keeper.incarnation)
        if keeper is None:
            return
        try:
            pidfd = os.pidfd_open(isolate.pid)
        except OSError as error:
            log.warning("isolate_not_watched", pid=isolate.pid, reason=str(error))
            return
        try:
            keeper.link.send(messages.WatchIsolate(isolate.pid), [pidfd])
        except LinkClosed:
            log.debug("keeper_not_told", pid=isolate.pid)
        finally:
            os.close(pidfd)

    def isolate_reaped(self, state: State, isolate: IsolateHandle) -> None:
        """The keeper need not end it any more."""
        self._send_keeper(state, messages.IsolateReaped(isolate.pid))

    def _give_pidfd(self, state: State, worker: Handle) -> None:
        keeper = self._processes.find(KEEPER, state.keeper.incarnation)
        if keeper is None or worker.pidfd < 0:
            return
        try:
            for segment in worker.segments:
                keeper.link.send(messages.WatchChild(segment.number, worker.pid), [worker.pidfd])
        except LinkClosed:
            log.debug("keeper_not_told", pid=worker.pid)

    def pass_on(self, state: State, note: Note) -> None:
        """Lets whoever watches know what the log says; a keeper that starts later gets the newest."""
        noted = messages.noted(time.time(), note.level.value, note.event, readable(note.fields))
        self._noted.append(noted)
        self._send_keeper(state, noted)

    def serves(self, state: State, message: messages.Serves) -> None:
        """Lets whoever asks know what the activities take; a keeper that starts later gets the newest."""
        self._serves = message
        self._send_keeper(state, message)

    def tell(self, state: State) -> None:
        """Says what has changed, if anything."""
        self._tell_keeper(state)
        self._tell_service_manager(state)

    def _tell_keeper(self, state: State) -> None:
        told = messages.SupervisorState(
            state=state.mode.value,
            wanted=state.plan.workers,
            total_slots=state.plan.concurrency,
            restarts={process.number: process.restarts for process in state.processes if process.restarts},
            causes={number: dict(counts) for number, counts in state.causes.items()},
            polling=state.polling,
            most=state.plan.most,
            configured=state.configured,
            threads=state.plan.threads is not None,
        )
        if told != self._told and self._send_keeper(state, told):
            self._told = told

    def _send_keeper(self, state: State, message: messages.Message) -> bool:
        """True when there is a keeper; one that has just ended has a successor, which is told everything."""
        keeper = self._processes.find(KEEPER, state.keeper.incarnation)
        if keeper is None:
            return False
        try:
            keeper.link.send(message)
        except LinkClosed:
            log.debug("keeper_not_told", message=type(message).__name__)
        return True

    def beat(self, state: State, ledger: Ledger, now: float, woke_at: float) -> None:
        """Keeps the service manager's watchdog calm, while all is well and only then.

        Args:
            state: the brain's.
            ledger: what the workers say.
            now: monotonic seconds.
            woke_at: when this process last came back from a freeze.

        """
        every_s = self._service_manager.beat_every_s
        if now >= self._beat_at and every_s < inf:
            self._beat_at = now + every_s
            if is_well(state, polling_in(ledger), now, woke_at):
                self._service_manager.beat()

    def patience_s(self, now: float) -> float:
        """Seconds until the next beat is due, infinity if nobody wants one."""
        return self._beat_at - now if self._service_manager.beat_every_s < inf else inf

    def _tell_service_manager(self, state: State) -> None:
        status = f"STATUS={state.ready} of {state.plan.processes} processes ready"
        if state.mode is not Mode.SERVING:
            self._service_manager.say("STOPPING=1", f"STATUS={state.mode.value}")
        elif state.rolling:
            self._service_manager.say("RELOADING=1", f"STATUS=replacing {len(state.rolling)} processes")
        elif state.ready >= state.plan.processes:
            self._service_manager.say("READY=1", status)
        else:
            self._service_manager.say(status)


def polling_in(ledger: Ledger) -> Iterator[Polling]:
    """Yields each living worker's way of getting its work, by its own words."""
    for segment in ledger.segments:
        if segment.life is Life.LIVE and segment.readable:
            limit = segment.get(Cell.LIMIT)
            yield Polling(
                segment.clock(Clock.LAST_GOOD_POLL),
                segment.clock(Clock.LAST_BAD_POLL),
                is_full=limit > 0 and segment.get(Cell.RUNNING) >= limit,
                is_reporting=any(record.claim is Claim.REPORTING for record in segment.records()),
            )
