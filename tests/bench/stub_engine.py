"""`python tests/bench/stub_engine.py [--delay-ms 5]`: an engine that costs a few microseconds a request.

A queue in memory behind a reader of our clients' HTTP: it checks no token, keeps no lease and stores nothing, so it is
no oracle for what is right. Benches start it as a process of its own and steer it by POSTs to `/stub` (`Stub` in
`bench_kit.py`), which answer with its counters and its own CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections import Counter, deque
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_S = 1.0  # activities that run longer are reported one by one
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STARTED_AT = re.compile(rb'"started_at": *([0-9.]+)')
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\ndate: %b\r\n\r\n%b"
_DONE = b'{"acknowledged":true}'
_EMPTY = b'{"activities":[],"count":0}'
_TOKEN = {"access_token": "stub", "token_type": "Bearer", "expires_in": 86_400}
_ITEM = (
    b'{"activity_id":"%b","workflow_id":"%b","activity_key":"step",'
    b'"worker":"py-std","activity_name":"%b","parameters":%b,"settings":{"cache":false},"timeout_seconds":null}'
)


_CHAIN = b"0193a1b2-0000-7000-8000-000000000000"  # every other activity has a workflow of its own


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """Returns the Date header as servers send it, so that heads change as often."""
    return formatdate(second, usegmt=True).encode()


class Order(msgspec.Struct):
    """An order of a bench to the stub."""

    do: str
    name: str = "noop"
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    count: int = 1
    offsets_s: list[float] = []
    steps: int = 0
    think_s: float = 0.0


class Work:
    """Every activity from its arrival to its outcome."""

    def __init__(self) -> None:
        self._number = 0
        self._pollers: dict[str, float] = {}
        self.clear()

    def clear(self) -> None:
        """Resets all activities and counters."""
        self._queue: deque[tuple[bytes, bytes, float]] = deque()  # id, item, since when it can be had
        self._out: dict[bytes, tuple[float, float]] = {}  # since when it could be had, when it was
        self._chain: Order | None = None
        self._watchers: list[tuple[int, Callable[[], None]]] = []
        self.counts: Counter[str] = Counter()
        self.claims: Counter[str] = Counter()
        self.pick_up_s: list[float] = []
        self.acknowledged_s: list[float] = []
        self._beats_s: dict[bytes, list[float]] = {}
        self.lives_s: list[list[float]] = []

    def arrive(self, order: Order, count: int = 1) -> None:
        """Queues activities of one kind."""
        now = time.monotonic()
        name, parameters = order.name.encode(), bytes(order.parameters)
        for _ in range(count):
            self._number += 1
            id_ = b"0193a1b2-0000-7000-8000-%012x" % self._number
            workflow = _CHAIN if order is self._chain else id_
            self._queue.append((id_, _ITEM % (id_, workflow, name, parameters), now))

    def chain(self, order: Order) -> None:
        """Queues the first of `steps` dependent activities; the next arrives `think_s` after a completion."""
        self._chain = order
        self.arrive(order)

    def hand_out(self, most: int, worker_id: str) -> bytes:
        """Returns the body of the reply to a poll."""
        self.counts["polls"] += 1
        poller = worker_id.rpartition("-")[0] or worker_id
        self._pollers.setdefault(poller, time.time())
        queue = self._queue
        if not queue:
            self.counts["empty_polls"] += 1
            return _EMPTY
        now, items = time.monotonic(), []
        for _ in range(min(most, len(queue))):
            id_, item, since = queue.popleft()
            self._out[id_] = since, now
            items.append(item)
        self.counts["claimed"] += len(items)
        self.claims[poller] += len(items)
        return b'{"activities":[%b],"count":%d}' % (b",".join(items), len(items))

    def beat(self, id_: bytes) -> None:
        """Records a heartbeat; one of an ended activity does not count."""
        self.counts["heartbeat"] += 1
        if id_ in self._out:
            self._beats_s.setdefault(id_, []).append(time.monotonic() - self._out[id_][1])

    def end(self, id_: bytes, verb: str, body: bytes) -> None:
        """Records an outcome; the pick-up ends at the handler's start, if the output contains it."""
        since, claimed_at = self._out.pop(id_)
        now = time.monotonic()
        started = _STARTED_AT.search(body)
        self.pick_up_s.append((float(started[1]) if started else claimed_at) - since)
        self.acknowledged_s.append(now - claimed_at)
        if now - claimed_at > LONG_S:
            self.lives_s.append([*self._beats_s.pop(id_, ()), now - claimed_at])
        self.counts[verb] += 1
        if self._chain is not None and self._chain.steps > self.counts["complete"]:
            asyncio.get_running_loop().call_later(self._chain.think_s, self.arrive, self._chain)
        if self._watchers:
            self._tell_watchers()

    def when_ended(self, count: int, tell: Callable[[], None]) -> None:
        """Calls `tell` once `count` outcomes have come."""
        self._watchers.append((count, tell))
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        ended = self.counts["complete"] + self.counts["fail"]
        told = [watcher for watcher in self._watchers if watcher[0] <= ended]
        for watcher in told:
            self._watchers.remove(watcher)
            watcher[1]()

    def report(self) -> dict[str, Any]:
        """Returns the counts since the last `clear`, and each poller with its first poll (wall clock).

        `lives_s` has a list for each long activity: seconds from hand-out to each heartbeat, and to the outcome.
        """
        return {
            "counts": self.counts,
            "claims": self.claims,
            "pollers": sorted(self._pollers),
            "first_polls": self._pollers,
            "pick_up_s": self.pick_up_s,
            "acknowledged_s": self.acknowledged_s,
            "lives_s": self.lives_s,
            "cpu_s": time.process_time(),
        }


class Connection(asyncio.Protocol):
    """Reads requests, which our clients send one at a time, and answers them after the delay."""

    def __init__(self, work: Work, delay_s: float) -> None:
        self._work = work
        self._delay_s = delay_s
        self._seen = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        seen = self._seen + data if self._seen else data
        head_end = seen.find(b"\r\n\r\n")
        length = _LENGTH.search(seen, 0, head_end + 2) if head_end >= 0 else None
        if head_end < 0 or len(seen) < head_end + 4 + (int(length[1]) if length else 0):
            self._seen = seen
            return
        self._seen = b""
        self._answer(seen.split(b" ", 2)[1], seen[head_end + 4 :])

    def _answer(self, path: bytes, body: bytes) -> None:
        parts = path.split(b"/")
        match parts[-1]:
            case b"complete" | b"fail" as verb:
                self._work.end(parts[-2], verb.decode(), body)
                self._reply(_DONE)
            case b"poll":
                asked = msgspec.json.decode(body)
                self._reply(self._work.hand_out(asked["max_activities"], asked["worker_id"]))
            case b"stub":
                self._obey(msgspec.json.decode(body, type=Order))
            case b"token":
                self._write(_TOKEN)
            case b"heartbeat":
                self._work.beat(parts[-2])
                self._reply(_DONE)
            case _:
                self._work.counts[parts[-1].decode()] += 1
                self._reply(_DONE)

    def _reply(self, body: bytes) -> None:
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._send, body)
        else:
            self._send(body)

    def _write(self, value: Any) -> None:
        self._send(msgspec.json.encode(value))

    def _send(self, body: bytes) -> None:
        self._transport.write(_HEAD % (len(body), _date(int(time.time())), body))

    def _obey(self, order: Order) -> None:
        work = self._work
        match order.do:
            case "fill":
                work.arrive(order, order.count)
            case "arrive":
                for offset_s in order.offsets_s:
                    asyncio.get_running_loop().call_later(offset_s, work.arrive, order)
            case "chain":
                work.chain(order)
            case "wait":
                work.when_ended(order.count, lambda: self._write(work.report()))
                return
            case "clear":
                work.clear()
        self._write(work.report())


async def serve(delay_s: float) -> None:
    """Prints its address and serves until it is killed."""
    work = Work()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(work, delay_s), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--delay-ms", type=float, default=0.0, help="before each reply of the worker's routes"
    )
    uvloop.run(serve(parser.parse_args().delay_ms / 1000))
