"""Forks isolates directly or through the zygote, and keeps their descriptors until they exist."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

import structlog

from flowherd.link import messages
from flowherd.link.link import LinkClosed
from flowherd_supervisor.core import actions, events
from flowherd_supervisor.core.events import ZYGOTE
from flowherd_supervisor.processes.process_table import IsolateHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowherd_supervisor.core.events import Event
    from flowherd_supervisor.processes.process_table import Handle, IsolateBirth, Processes

_ENDS = 4  # channel, stdout, stderr, lifeline
_Names = tuple[int, int, int]

log = structlog.stdlib.get_logger("flowherd")


class IsolateSpecs(Protocol):
    """Supplies the recipe for an isolate that is forked directly."""

    def isolate_birth(self, order: actions.SpawnIsolate, ends: Sequence[int]) -> IsolateBirth: ...


class Isolation:
    """Starts isolates and passes their messages on.

    Args:
        processes: the supervisor's children.
        births: recipes for isolates that are forked directly.
        introduce: called with each new isolate.

    """

    def __init__(
        self, processes: Processes, births: IsolateSpecs, introduce: Callable[[IsolateHandle], None]
    ) -> None:
        self._processes = processes
        self._births = births
        self._introduce = introduce
        self._ends: dict[_Names, Sequence[int]] = {}
        self._stacks: dict[_Names, int] = {}  # of isolates ordered from a zygote

    def wanted(self, handle: Handle, message: messages.FromWorker, fds: Sequence[int]) -> Iterator[Event]:
        """Translates a worker's request into an event and keeps its descriptors for the isolate."""
        names = (handle.index, handle.incarnation, message.key)
        match message:
            case messages.NeedIsolate() if len(fds) == _ENDS and names not in self._ends:
                self._ends[names] = fds
                yield events.IsolateNeeded(*names)
                return
            case messages.NeedIsolate():
                log.error(
                    "isolate_not_understood", process=handle.index, key=message.key, descriptors=len(fds)
                )
            case messages.KillIsolate():
                yield events.IsolateKillWanted(*names)
        _close(fds)

    def perform(self, order: actions.AboutIsolate, host_processes: int) -> list[Event]:
        """Performs one action and returns the events that follow at once."""
        match order:
            case actions.SpawnIsolate():
                return self._make(order, host_processes)
            case actions.TellIsolateStarted(pid=pid):
                self._tell(order, messages.IsolateStarted(order.key, pid))
            case actions.TellIsolateEnded(status=status, reason=reason):
                self._forget((order.index, order.incarnation, order.key))
                self._tell(order, messages.IsolateEnded(order.key, status, reason))
            case actions.KillIsolate():
                isolate = self._processes.find_isolate(order.index, order.incarnation, order.key)
                if isolate is not None:
                    self._processes.kill_group(isolate)
        return []

    def answered(self, answer: messages.FromZygote) -> list[Event]:
        """Handles a zygote's reply: an isolate exists, or could not be forked."""
        names = (answer.index, answer.incarnation, answer.key)
        stacks = self._stacks.pop(names, None)
        if stacks is None:
            log.error("unasked_fork", process=answer.index, answer=repr(answer))
            return []
        match answer:
            case messages.Forked(pid=pid):
                isolate = IsolateHandle(*names, pid, stacks)
                self._processes.adopt(isolate)
                return self._exists(isolate)
            case messages.ForkFailed(reason=reason):
                os.close(stacks)
                return [events.IsolateNotForked(*names, reason)]

    def _make(self, order: actions.SpawnIsolate, host_processes: int) -> list[Event]:
        names = (order.index, order.incarnation, order.key)
        if (stacks := self._stacks.pop(names, None)) is not None:
            os.close(stacks)  # of a zygote that has ended
        try:
            if order.zygote:
                self._ask(order, host_processes)
                return []
            birth = self._births.isolate_birth(order, self._ends[names])
            return self._exists(self._processes.spawn_isolate(*names, birth))
        except Exception as error:  # noqa: BLE001 - the worker needs an answer in any case
            return [events.IsolateNotForked(*names, str(error) or repr(error))]

    def _ask(self, order: actions.SpawnIsolate, host_processes: int) -> None:
        """Sends the order to the zygote; a closed link is ignored, since the zygote's exit or silence follows."""
        names = (order.index, order.incarnation, order.key)
        stacks = self._stacks[names] = os.memfd_create("stacks")
        fork = messages.Fork(order.index, order.incarnation, (), 0, host_processes, order.key)
        zygote = self._processes.find(ZYGOTE, order.zygote)
        if zygote is not None:
            with contextlib.suppress(LinkClosed):
                zygote.link.send(fork, [*self._ends[names], stacks])

    def _exists(self, isolate: IsolateHandle) -> list[Event]:
        """Closes our copies of an isolate's descriptors, so that its exit is an end of file, and returns its event."""
        names = (isolate.index, isolate.incarnation, isolate.key)
        _close(self._ends.get(names, ()))
        self._ends[names] = ()
        if self._processes.find_isolate(*names) is not None:  # else it has already been reaped
            self._introduce(isolate)
        return [events.IsolateForked(*names, isolate.pid)]

    def _forget(self, names: _Names) -> None:
        _close(self._ends.pop(names, ()))
        if (stacks := self._stacks.pop(names, None)) is not None:
            os.close(stacks)

    def _tell(
        self, order: actions.TellIsolateStarted | actions.TellIsolateEnded, message: messages.Message
    ) -> None:
        worker = self._processes.find(order.index, order.incarnation)
        if worker is not None:
            with contextlib.suppress(LinkClosed):  # it is ending
                worker.link.send(message)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
