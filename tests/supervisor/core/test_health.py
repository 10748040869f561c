"""systemd's watchdog is fed while work gets done, or while there is a reason for not working."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import pytest
from brain import Brain

from flowherd.ledger import Cell, Clock, Ledger, RecordWriter
from flowherd_supervisor.core import events
from flowherd_supervisor.core.health import RARE_S, RECENT_S, is_well
from flowherd_supervisor.core.state import Phase
from flowherd_supervisor.shell.service_manager import ServiceManager
from flowherd_supervisor.shell.status_notifier import polling_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1000.0


class Host:
    """A state with two running processes, and the ledger of one of them."""

    def __init__(self) -> None:
        self.brain = Brain().serve()
        self.ledger = Ledger(processes=2, records=4)
        self.segment = self.ledger.free_segment()
        assert self.segment is not None
        self.segment.open(index=0, incarnation=1, now=1.0)
        self.writer = RecordWriter(self.segment)
        self.segment.put(Cell.LIMIT, 2)
        self.segment.set_clock(Clock.LAST_GOOD_POLL, NOW - 1.0)

    @property
    def well(self) -> bool:
        return is_well(self.brain.state, polling_in(self.ledger), NOW)

    def polls_fail(self) -> None:
        self.segment.set_clock(Clock.LAST_GOOD_POLL, NOW - RECENT_S - 1.0)
        self.segment.set_clock(Clock.LAST_BAD_POLL, NOW - 1.0)


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_good_poll_lately_is_well_and_an_old_one_is_not(host: Host) -> None:
    """WATCHDOG=1 only while a good poll is recent."""
    assert host.well
    host.polls_fail()
    assert not host.well


def test_rare_but_answered_polls_are_healthy_up_to_a_limit(host: Host) -> None:
    """An idle host with a long --poll-interval-max is healthy, a poller that has stopped is not."""
    host.segment.set_clock(Clock.LAST_GOOD_POLL, NOW - RARE_S + 1.0)
    assert host.well
    host.segment.set_clock(Clock.LAST_GOOD_POLL, NOW - RARE_S - 1.0)
    assert not host.well


def test_n4_a_host_that_was_frozen_has_its_whole_time_for_a_poll_again(host: Host) -> None:
    """N4: its polls failed because of the freeze; the service manager was not frozen and must still get its beats."""
    host.polls_fail()
    assert is_well(host.brain.state, polling_in(host.ledger), NOW, woke_at=NOW - RECENT_S + 1.0)
    assert not is_well(host.brain.state, polling_in(host.ledger), NOW, woke_at=NOW - RECENT_S - 1.0)


def test_without_a_process_that_is_ready_it_is_not_well(host: Host) -> None:
    """A ready process is required."""
    processes = tuple(process.with_phase(Phase.BACKOFF) for process in host.brain.state.processes)
    host.brain.state = replace(host.brain.state, processes=processes)
    assert not host.well


def test_full_slots_make_no_poll_and_are_well(host: Host) -> None:
    """Hours of long work must not end in a restart."""
    host.polls_fail()
    host.segment.put(Cell.RUNNING, 2)
    assert host.well
    host.segment.put(Cell.RUNNING, 1)
    assert not host.well


def test_results_that_wait_for_the_engine_are_not_thrown_away(host: Host) -> None:
    """A restart would lose them, and would not bring the engine back."""
    host.polls_fail()
    index, _ = host.writer.claim("a-1", "w-1", "resize", now=1.0, lease_s=60.0)
    assert not host.well
    host.writer.reporting(index, None)
    assert host.well


@pytest.mark.parametrize("fact", [events.PollingSwitched(on=False), events.StopRequested()], ids=str)
def test_a_paused_or_stopping_host_is_healthy(host: Host, fact: events.Event) -> None:
    """A pause is an order; a stop has a limit of its own."""
    host.polls_fail()
    host.brain.hears(fact)
    assert host.well


# The socket


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd makes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_a_reload_is_sent_with_its_time_and_no_message_is_repeated(manager: socket.socket) -> None:
    """sd_notify(3): RELOADING=1 comes with MONOTONIC_USEC."""
    service = ServiceManager()
    for _ in range(3):
        service.say("RELOADING=1", "STATUS=x")
    service.say("READY=1")
    first, second = manager.recv(4096).decode().splitlines(), manager.recv(4096).decode()
    assert first[:2] == ["RELOADING=1", "STATUS=x"]
    assert first[2].startswith("MONOTONIC_USEC=")
    assert second == "READY=1"


@pytest.mark.parametrize(
    ("usec", "meant_for", "every_s"),
    [
        ("30000000", "", 10.0),
        ("30000000", "me", 10.0),
        ("30000000", "1", inf),
        ("0", "", inf),
        ("", "", inf),
        ("-5", "", inf),
        ("soon", "", inf),
    ],
)
@pytest.mark.usefixtures("manager")
def test_the_watchdog_is_fed_three_times_in_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str, meant_for: str, every_s: float
) -> None:
    """sd_watchdog_enabled(3): the variables may be meant for another process, and reach no child of ours."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if meant_for == "me" else meant_for)
    assert ServiceManager().beat_every_s == every_s
    assert not {"WATCHDOG_USEC", "WATCHDOG_PID", "NOTIFY_SOCKET"} & os.environ.keys()


def test_without_a_service_manager_nothing_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stray variable of an outer service must not wake us."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    assert ServiceManager().beat_every_s == inf
