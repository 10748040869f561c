"""N1: no part of the keeper ends unnoticed, and no defect hides the supervisor's death from it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.exit_codes import Exit
from flowherd.leases.keep_leases_and_token import KeeperTasks
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Ledger
from flowherd.ledger.wakeups import Wakeups
from flowherd.link.link import Link
from flowherd.link.messages import Asked, Finish, SupervisorState
from flowherd.settings.worker_config import WorkerConfig
from flowherd_supervisor.keeper import http_server, keeper_process
from flowherd_supervisor.keeper.keeper_process import KeeperSetup, _Keeper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowherd.link.messages import Message

CEILING_S = 10.0


class NoPages:
    """Replaces the HTTP thread."""

    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    async def answered(self, within_s: float) -> None:
        pass


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeeperSetup]:
    monkeypatch.setattr(keeper_process, "HttpThread", NoPages)
    ledger = Ledger(processes=1, records=2)
    wakeups = Wakeups(len(ledger.segments))
    handlers = logging.getLogger().handlers[:]
    yield KeeperSetup(WorkerConfig(), ledger, wakeups, (), "0.1.0", 1, time.monotonic(), 30.0)
    logging.getLogger().handlers[:] = handlers  # a keeper adds one of its own
    wakeups.close()


@pytest.fixture
def links() -> Iterator[tuple[Link, Link]]:
    """The supervisor's end and the keeper's."""
    ends = Link.pair()
    yield ends
    for end in ends:
        end.close()


async def test_n1_a_keeper_whose_scan_ends_logs_it_and_ends(
    setup: KeeperSetup,
    links: tuple[Link, Link],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """N1: the supervisor replaces it; otherwise it would look alive without sending heartbeats."""

    def scan(_: LeaseKeeper) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(LeaseKeeper, "scan", scan)
    async with asyncio.timeout(CEILING_S):
        assert await _Keeper(setup, links[1]).run() is Exit.INTERNAL
    assert "ValueError: a defect" in caplog.text


async def test_n1_what_cannot_be_read_does_not_hide_the_orders_behind_it(
    setup: KeeperSetup, links: tuple[Link, Link], caplog: pytest.LogCaptureFixture
) -> None:
    """N1: nor does a message that lost its descriptor because of the limit."""
    links[0]._sock.send(b"garbage")
    links[0]._sock.send(b'{"type":"WatchIsolate","pid":4711}')
    links[0].send(Finish(0.0))
    async with asyncio.timeout(CEILING_S):
        assert await _Keeper(setup, links[1]).run() is Exit.CLEAN
    assert caplog.text.count("internal_error") == 2


async def test_n1_a_keeper_without_a_supervisor_from_the_start_ends_itself(
    setup: KeeperSetup, links: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N1: the supervisor may die at any moment."""
    limits: list[bool] = []
    monkeypatch.setattr(keeper_process, "limit_the_keeper", lambda: limits.append(True))
    links[0].close()
    async with asyncio.timeout(CEILING_S):
        assert await _Keeper(setup, links[1]).run() is Exit.CLEAN
    assert limits == [True]


async def test_a_drain_is_answered_before_the_process_that_answers_ends(
    setup: KeeperSetup, links: tuple[Link, Link], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle host ends within milliseconds, while the thread that has passed the order on may wait for a CPU."""
    monkeypatch.setattr(keeper_process, "HttpThread", http_server.HttpThread)
    cpu = threading.Event()
    loop = asyncio.get_running_loop()
    settle_rest, send = KeeperTasks.settle_rest, Link.send

    async def settle_rest_and_free_the_cpu_soon(keep: KeeperTasks, within_s: float) -> None:
        await settle_rest(keep, within_s)
        loop.call_later(0.05, cpu.set)

    def send_and_wait_for_a_cpu(link: Link, message: Message) -> None:
        send(link, message)
        if message == Asked("drain"):
            links[0].send(Finish(5.0))
            assert cpu.wait(CEILING_S)

    monkeypatch.setattr(KeeperTasks, "settle_rest", settle_rest_and_free_the_cpu_soon)
    monkeypatch.setattr(Link, "send", send_and_wait_for_a_cpu)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        listener.settimeout(0)
        client.connect(path)
        client.send(
            b"POST /api/drain HTTP/1.1\r\nhost: f\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        )
        keeper = _Keeper(replace(setup, sockets=(listener,)), links[1])
        keeper._board.supervisor = SupervisorState("running", 1, 2, {})
        async with asyncio.timeout(CEILING_S):
            assert await keeper.run() is Exit.CLEAN
        assert client.recv(1024, socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 202")


def test_n1_pages_that_end_are_served_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """N1: a server that ends closes only its copies of the sockets."""
    served = threading.Event()
    families: list[int] = []

    class Server:
        def __init__(self, _: Any) -> None:
            pass

        async def serve(self, sockets: list[socket.socket]) -> None:
            families.append(sockets[0].family)
            sockets[0].close()
            if len(families) == 1:
                raise SystemExit(1)
            served.set()
            await asyncio.Event().wait()

    class Routes:
        over_tcp = over_unix = None

    monkeypatch.setattr(http_server, "_Server", Server)
    monkeypatch.setattr(http_server, "AGAIN_AFTER_S", 0.0)
    with socket.socket() as one:
        http_server.HttpThread(Routes(), [one]).start()  # type: ignore[arg-type]
        assert served.wait(CEILING_S)
        assert one.fileno() >= 0
    assert families == [socket.AF_INET, socket.AF_INET]
