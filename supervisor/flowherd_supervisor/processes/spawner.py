"""Forks processes directly or through the zygote, and keeps their segments until they exist."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import structlog

from flowherd.ledger import Cause, Cell, Ledger, Life, Segment
from flowherd.link import messages
from flowherd.link.link import Link, LinkClosed
from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.processes.process_table import Birth, Handle, Processes

if TYPE_CHECKING:
    from flowherd.ledger.wakeups import Wakeups

log = structlog.stdlib.get_logger("flowherd")


class ProcessSpecs(Protocol):
    """Supplies the recipe for the process that a Spawn orders: keeper, zygote or workers."""

    def birth(self, order: actions.Spawn, segments: tuple[Segment, ...]) -> Birth: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A worker process ordered from a zygote: our end of its link, its segments and its file for stacks."""

    order: actions.Spawn
    segments: tuple[Segment, ...]
    link: Link
    stacks: int


class Spawner:
    """Starts keeper, zygotes and workers."""

    def __init__(self, processes: Processes, ledger: Ledger, wakeups: Wakeups, births: ProcessSpecs) -> None:
        self._processes = processes
        self._ledger = ledger
        self._wakeups = wakeups
        self._births = births
        self._asked: dict[tuple[int, int], _Asked] = {}

    def make(self, order: actions.Spawn, host_processes: int) -> Handle | events.SpawnFailed | None:
        """Forks the process, or orders it from the zygote and returns None, since the answer comes later.

        Args:
            order: the process, and the zygote to fork it from.
            host_processes: number of workers in the host.

        """
        segments: tuple[Segment, ...] = ()
        if order.index not in {KEEPER, ZYGOTE}:
            segments = self._ledger.free_segments(order.workers, self._taken())
            if not segments:
                return events.SpawnFailed(order.index, order.incarnation, "too few segments are settled yet")
        try:
            now = time.monotonic()
            for number, segment in enumerate(segments, order.index):
                segment.open(index=number, incarnation=order.incarnation, now=now)
            if order.zygote and segments:
                self._ask(order, segments, host_processes)
                return None
            birth = self._births.birth(order, segments)
            return self._known(self._processes.spawn(order.index, order.incarnation, segments, birth))
        except Exception as error:  # noqa: BLE001 - the state machine needs an answer in any case
            self._give_back(segments)
            return events.SpawnFailed(order.index, order.incarnation, str(error) or repr(error))

    def _taken(self) -> set[int]:
        """Returns the segments of ordered and unreaped processes, regardless of their contents."""
        asked = (segment for one in self._asked.values() for segment in one.segments)
        return {segment.number for segment in chain(asked, *(one.segments for one in self._processes))}

    def answered(self, answer: messages.FromZygote) -> Handle | events.SpawnFailed | None:
        """Handles a zygote's reply: a process exists, or could not be forked."""
        asked = self._asked.pop((answer.index, answer.incarnation), None)
        if asked is None:
            log.error("unasked_fork", process=answer.index, answer=repr(answer))
            return None
        match answer:
            case messages.Forked(pid=pid):
                handle = self._handle_of(asked, pid)
                self._processes.adopt(handle)
                return self._known(handle)
            case messages.ForkFailed(reason=reason):
                self._drop(asked)
                return events.SpawnFailed(answer.index, answer.incarnation, reason)

    def zygote_ended(self, incarnation: int) -> None:
        """Drops the open orders of an ended zygote; a child that was forked after all sees its link close."""
        for names, asked in list(self._asked.items()):
            if asked.order.zygote == incarnation:
                del self._asked[names]
                self._drop(asked)

    def _ask(self, order: actions.Spawn, segments: tuple[Segment, ...], host_processes: int) -> None:
        """Sends the order to the zygote; a closed link is ignored, since the zygote's exit or silence follows."""
        ours, theirs = Link.pair()
        stacks = os.memfd_create("stacks")
        self._asked[order.index, order.incarnation] = _Asked(order, segments, ours, stacks)
        numbers = tuple(segment.number for segment in segments)
        fork = messages.Fork(order.index, order.incarnation, numbers, order.limit, host_processes)
        zygote = self._processes.find(ZYGOTE, order.zygote)
        if zygote is not None:
            with contextlib.suppress(LinkClosed):
                zygote.link.send(fork, [theirs.fileno(), stacks])
        theirs.close()

    def _handle_of(self, asked: _Asked, pid: int) -> Handle:
        order = asked.order
        asked.link.set_blocking(blocking=False)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has already been reaped
            pidfd = -1
        return Handle(order.index, order.incarnation, pid, pidfd, asked.link, asked.segments, asked.stacks)

    def _known(self, handle: Handle) -> Handle:
        for segment in handle.segments:
            segment.put(Cell.PID, handle.pid)
        return handle

    def _drop(self, asked: _Asked) -> None:
        asked.link.close()
        os.close(asked.stacks)
        self._give_back(asked.segments)

    def _give_back(self, segments: tuple[Segment, ...]) -> None:
        """Ends the segments, so that the keeper frees them."""
        for segment in segments:
            if segment.life is Life.LIVE:
                segment.end(Cause.STOP)
        self._wakeups.wake_keeper()
