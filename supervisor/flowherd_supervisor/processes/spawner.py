"""Has processes made, directly or by the mold, and keeps what the unborn will need; it decides nothing."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import structlog

from flowherd.link import messages
from flowherd.ledger import Berth, Cause, Cell, Ledger, Life
from flowherd.link.link import Link, LinkClosed
from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import KEEPER, MOLD
from flowherd_supervisor.processes.table import Birth, Handle, Processes

if TYPE_CHECKING:
    from flowherd.ledger.wakeups import Bells

log = structlog.stdlib.get_logger("flowherd")


class Births(Protocol):
    """Says how to make the process that a Spawn orders: the keeper, the mold, or the workers of some berths."""

    def birth(self, order: actions.Spawn, berths: tuple[Berth, ...]) -> Birth: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A worker that a mold has been asked for: what is ours of it, and what becomes its own."""

    order: actions.Spawn
    berths: tuple[Berth, ...]
    link: Link
    stacks: int


class Forks:
    """Keeper, molds and workers begin here."""

    def __init__(self, processes: Processes, ledger: Ledger, bells: Bells, births: Births) -> None:
        self._processes = processes
        self._ledger = ledger
        self._bells = bells
        self._births = births
        self._asked: dict[tuple[int, int], _Asked] = {}

    def make(self, order: actions.Spawn, host_processes: int) -> Handle | events.SpawnFailed | None:
        """Makes the process, or asks the mold for it; then the answer comes later.

        Args:
            order: what to make, and who shall.
            host_processes: how many workers there are.

        """
        berths: tuple[Berth, ...] = ()
        if order.seat not in {KEEPER, MOLD}:
            berths = self._ledger.free_berths(order.workers, self._taken())
            if not berths:
                return events.SpawnFailed(order.seat, order.incarnation, "too few berths are settled yet")
        try:
            now = time.monotonic()
            for number, berth in enumerate(berths, order.seat):
                berth.open(seat=number, incarnation=order.incarnation, now=now)
            if order.mold and berths:
                self._ask(order, berths, host_processes)
                return None
            birth = self._births.birth(order, berths)
            return self._known(self._processes.spawn(order.seat, order.incarnation, berths, birth))
        except Exception as error:  # noqa: BLE001 - the brain waits for an answer, whatever it is
            self._give_back(berths)
            return events.SpawnFailed(order.seat, order.incarnation, str(error) or repr(error))

    def _taken(self) -> set[int]:
        """Whatever a segment says of itself: those of processes that have not been reaped are in use."""
        asked = (berth for one in self._asked.values() for berth in one.berths)
        return {berth.number for berth in chain(asked, *(one.berths for one in self._processes))}

    def answered(self, answer: messages.FromMold) -> Handle | events.SpawnFailed | None:
        """A mold has made what it was asked for, or could not."""
        asked = self._asked.pop((answer.seat, answer.incarnation), None)
        if asked is None:
            log.error("unasked_fork", process=answer.seat, answer=repr(answer))
            return None
        match answer:
            case messages.Forked(pid=pid):
                handle = self._handle_of(asked, pid)
                self._processes.adopt(handle)
                return self._known(handle)
            case messages.ForkFailed(reason=reason):
                self._drop(asked)
                return events.SpawnFailed(answer.seat, answer.incarnation, reason)

    def mold_ended(self, incarnation: int) -> None:
        """Nobody will make what this one was asked for: whoever holds the other end of a link sees its end."""
        for names, asked in list(self._asked.items()):
            if asked.order.mold == incarnation:
                del self._asked[names]
                self._drop(asked)

    def _ask(self, order: actions.Spawn, berths: tuple[Berth, ...], host_processes: int) -> None:
        """A mold that cannot be reached will be found out by its silence, or by its end."""
        ours, theirs = Link.pair()
        stacks = os.memfd_create("stacks")
        self._asked[order.seat, order.incarnation] = _Asked(order, berths, ours, stacks)
        numbers = tuple(berth.number for berth in berths)
        fork = messages.Fork(order.seat, order.incarnation, numbers, order.limit, host_processes)
        mold = self._processes.find(MOLD, order.mold)
        if mold is not None:
            with contextlib.suppress(LinkClosed):
                mold.link.send(fork, [theirs.fileno(), stacks])
        theirs.close()

    def _handle_of(self, asked: _Asked, pid: int) -> Handle:
        order = asked.order
        asked.link.set_blocking(blocking=False)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended, and has been reaped
            pidfd = -1
        return Handle(order.seat, order.incarnation, pid, pidfd, asked.link, asked.berths, asked.stacks)

    def _known(self, handle: Handle) -> Handle:
        for berth in handle.berths:
            berth.put(Cell.PID, handle.pid)
        return handle

    def _drop(self, asked: _Asked) -> None:
        asked.link.close()
        os.close(asked.stacks)
        self._give_back(asked.berths)

    def _give_back(self, berths: tuple[Berth, ...]) -> None:
        """The keeper frees what has ended."""
        for berth in berths:
            if berth.life is Life.LIVE:
                berth.end(Cause.CLEAN)
        self._bells.ring_keeper()
