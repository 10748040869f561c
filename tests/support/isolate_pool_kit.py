"""A pool of isolates whose host only takes orders, and whose isolates are played by the test; it asserts nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
from runner_kit import Runner
from worker_kit import open_segment

from flowherd import Registry
from flowherd.activities_and_outcomes import Failed
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.isolates.channel import Channel, ChannelEnded
from flowherd.isolates.isolate import IsolateRules, Stage
from flowherd.isolates.isolate_pool import Isolates
from flowherd.isolates.isolate_protocol import Begin, Ended, Message, decode_downward
from flowherd.isolates.printed_output import mark_bytes
from flowherd.ledger import Ledger
from flowherd.link.link import LinkClosed
from flowherd.link.messages import KillIsolate, NeedIsolate, Ready
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from runner_kit import Run


class Peer:
    """The isolate's part, played by the test."""

    def __init__(self, fds: Sequence[int]) -> None:
        channel, self.stdout, self.stderr, self.lifeline = (os.dup(fd) for fd in fds)
        self.channel = Channel.inherited(channel)
        os.set_blocking(channel, False)
        self.heard: list[Any] = []
        self.mark = ""

    def succeed(self, output: bytes = b"{}", **fields: Any) -> None:
        """The handler has returned, and its output has ended."""
        self.send(Ended(None, **fields), output)
        self.end_output()

    def fail(self, code: str = "C", message: str = "m", *, retryable: bool = True) -> None:
        """The handler has raised, and its output has ended."""
        self.send(Ended(Failed(code, message, retryable)))
        self.end_output()

    def end_output(self) -> None:
        for pipe in (self.stdout, self.stderr):
            os.write(pipe, mark_bytes(self.mark))

    def send(self, message: Message, body: bytes = b"") -> None:
        self.channel.send(message, body if isinstance(message, Ended) else None)

    def send_raw(self, packet: bytes) -> None:
        """Whatever an isolate may send."""
        with socket.socket(fileno=os.dup(self.channel.fileno())) as sock:
            sock.send(packet)

    async def hear(self) -> Any:
        """The next message; for Begin with its parameters. None when there are no more."""
        async with asyncio.timeout(5):
            while not self.heard:
                self.take_in()
                await asyncio.sleep(0)
        message, body = self.heard.pop(0)
        if isinstance(message, Begin):
            self.mark = message.mark
            return message, msgspec.json.decode(body)
        return message

    def take_in(self) -> None:
        """Reads all that has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    message, body = self.channel.receive()
                except ChannelEnded:
                    self.heard.append((None, b""))
                    return
                self.heard.append((decode_downward(message), body))

    def close(self) -> None:
        self.channel.close()
        for fd in (self.stdout, self.stderr, self.lifeline):
            os.close(fd)


class Host:
    """The other end of the link, which takes orders and makes nothing."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self.orders: list[tuple[str, int]] = []
        self.is_gone = False

    def send(self, message: NeedIsolate | KillIsolate, fds: Sequence[int] = ()) -> None:
        match message:
            case KillIsolate(key):
                self.orders.append(("kill", key))
            case NeedIsolate() if self.is_gone:
                raise LinkClosed("end of file")
            case NeedIsolate(key):
                self.peers[key] = Peer(fds)
                self.orders.append(("need", key))


class Pool:
    """Isolates and a runner that uses them."""

    def __init__(
        self, *, limit: int = 2, cancel_grace_s: float = 60.0, max_memory_mb: int | None = None, **rules: Any
    ) -> None:
        self.host = Host()
        self.ledger = Ledger(processes=1, records=1024)
        segment = open_segment(self.ledger)
        self.isolates = Isolates(self.host, count(1), IsolateRules(**rules), limit, segment)
        registry = Registry()

        @registry.activity(offload="process", max_memory_mb=max_memory_mb)
        def work(): ...

        config = WorkerConfig(worker_id="t", concurrency=4, cancel_grace_s=cancel_grace_s)
        self.runner = Runner(registry, config, ThreadPool(1), RunEnvironment(), self.isolates)
        self._last = 0

    def start(self, parameters: Any = None, **fields: Any) -> Run:
        self._last += 1
        return self.runner.start(make_activity("work", parameters, number=self._last, **fields))

    def open(self, key: int, pid: int = 0) -> Peer:
        """The isolate is there and ready."""
        self.isolates.started(key, pid)
        peer = self.host.peers[key]
        peer.send(Ready())
        return peer

    def end(self, key: int, status: int = 0, reason: str = "") -> None:
        """The supervisor has reaped it."""
        self.isolates.ended(key, status, reason)

    @property
    def keys(self) -> list[int]:
        return [key for order, key in self.host.orders if order == "need"]


@asynccontextmanager
async def pool(**options: Any) -> AsyncIterator[Pool]:
    made = Pool(**options)
    try:
        yield made
    finally:
        idle = {Stage.OPENING, Stage.IDLE, Stage.SETTLING}
        left = [one._ends for one in made.isolates._all.values() if one.stage in idle]
        made.isolates.close()
        for ends in left:
            ends.close()  # as the end of a worker's process does
        for peer in made.host.peers.values():
            peer.close()
