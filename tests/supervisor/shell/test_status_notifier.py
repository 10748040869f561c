"""What the keeper is told by the supervisor, also when it does not read for a moment."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import Noted, SupervisorState, WatchChild, WatchIsolate, decode_downward
from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.state import State
from flowherd_supervisor.shell.status_notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Table:
    """A keeper, and the other processes of a host."""

    keeper: Any
    workers: list[Any]
    isolates: list[Any]

    def find(self, *_: Any) -> Any:
        return self.keeper

    def __iter__(self) -> Iterator[Any]:
        return iter(self.workers)


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    """The supervisor's end and the keeper's."""
    ends = Link.pair()
    for end in ends:
        end.set_blocking(blocking=False)
    yield ends
    for end in ends:
        end.close()


def read(link: Link) -> list[Any]:
    """Returns the messages that wait."""
    messages = []
    while (received := link.receive()) is not None:
        messages.append(decode_downward(received[0]))
        for fd in received[1]:
            os.close(fd)
    return messages


def fill(link: Link) -> None:
    with suppress(LinkClosed):
        while True:
            link.send(Noted(0.0, "info", "process_ready", {"process": 1}))


def test_a_keeper_that_did_not_read_for_a_moment_gets_the_state_and_the_processes_of_the_meantime(
    links: tuple[Link, Link],
) -> None:
    """Otherwise `status` would show that polling is on until something else changes, and orphans would stay."""
    pidfd = os.pidfd_open(os.getpid())
    worker = SimpleNamespace(index=0, pid=os.getpid(), pidfd=pidfd, segments=[SimpleNamespace(number=3)])
    isolate = SimpleNamespace(pid=os.getpid())
    table = Table(SimpleNamespace(link=links[0], index=-1), [], [])
    notifier: Notifier = Notifier(table)  # type: ignore[arg-type]
    state = State.new(Plan(processes=1, concurrency=2))
    notifier.tell(state)
    assert [type(one) for one in read(links[1])] == [SupervisorState]
    fill(links[0])
    table.workers, table.isolates = [worker], [isolate]
    notifier.introduce(state, worker)
    notifier.introduce_isolate(state, isolate)  # type: ignore[arg-type]
    paused = replace(state, polling=False)
    notifier.tell(paused)
    assert {type(one) for one in read(links[1])} == {Noted}
    notifier.tell(paused)
    watch_worker, watch_isolate, told = read(links[1])
    assert watch_worker == WatchChild(3, os.getpid())
    assert watch_isolate == WatchIsolate(os.getpid())
    assert told.polling is False
    notifier.tell(paused)
    assert read(links[1]) == []
    os.close(pidfd)
