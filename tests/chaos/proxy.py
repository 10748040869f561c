"""A proxy on loopback that resets, refuses and delays at seeded random; it never changes forwarded bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_VERB = re.compile(r"/api/v1/(?:activities/([^/]+)/(\w+)|workers/(poll)|oauth/(token))")
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
_NOTHING = b'"activities":[],"count":0}'
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: a close becomes a reset


class Fate(Enum):
    """The result of one call."""

    PASSED = "passed"
    SLOW = "slow"
    REFUSED = "refused"  # 503, the engine has not seen it
    RESET_BEFORE = "reset before"  # the engine has not seen it
    RESET_AMID = "reset amid"  # the engine has answered, half of it arrived
    RESET_AFTER = "reset after"  # the engine has answered, nothing arrived
    HELD = "held"  # the engine has answered, and the reply never arrives
    UNREACHABLE = "unreachable"  # no engine
    UNANSWERED = "unanswered"  # the engine went away with it


REPLY_LOST = frozenset({Fate.HELD, Fate.RESET_AMID, Fate.RESET_AFTER, Fate.UNANSWERED})


@dataclass(frozen=True, slots=True)
class Toxics:
    """Chances per call; a reset is before, amid or after the reply with equal chance."""

    reset: float = 0.0
    refuse: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.5


CALM_NETWORK = Toxics()
HARSH = Toxics(reset=0.05, refuse=0.02, slow=0.02)


@dataclass(frozen=True, slots=True)
class Call:
    """A forwarded request, and when its reply was passed on, in wall-clock time as in the engine's journal."""

    at_s: float
    verb: str
    activity_id: str
    worker_id: str
    fate: Fate
    answered_s: float = math.inf

    @property
    def polls_for(self) -> int:
        """The pid of the worker that polls, from `<id>-<pid>-<nonce>-<n>`; 0 for any other call."""
        return int(self.worker_id.rsplit("-", 3)[1]) if self.verb == "poll" else 0


class Proxy:
    """A proxy between workers and an engine, in a thread with its own loop.

    Args:
        upstream_port: the engine's, which may come and go.

    Attributes:
        holds: the verbs whose replies are held back until their caller has gone, but for polls that bring nothing.
        refuses: the verbs that are answered by 503, unseen by the engine.
        bars: the pids whose polls are answered by 503, unseen by the engine.
        polling: the pids whose polls are here or with the engine.
        calls: everything that came by, in the order in which it ended.

    """

    def __init__(self, upstream_port: int, toxics: Toxics = CALM_NETWORK, seed: int = 0) -> None:
        self._upstream_port = upstream_port
        self._rng = random.Random(seed)
        self.toxics = toxics
        self.holds: set[str] = set()
        self.refuses: set[str] = set()
        self.bars: set[int] = set()
        self.polling: Counter[int] = Counter()
        self.calls: list[Call] = []
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        assert self._listening.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """The base URL for workers."""
        return f"http://127.0.0.1:{self._port}"

    def count(self, *verbs: str, since_s: float = 0.0) -> Counter[Fate]:
        """Counts the calls by result."""
        return Counter(c.fate for c in self.calls if c.at_s >= since_s and (not verbs or c.verb in verbs))

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._over.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = _Upstream(self._upstream_port)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._exchange(reader, writer, upstream):
                pass
        upstream.close()
        writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: _Upstream
    ) -> bool:
        """Handles one request; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        request = head + await reader.readexactly(_length(head))
        at_s, fate = time.time(), self._fate()
        call = _noted(at_s, head, request[len(head) :], fate)
        with self._counted(call):
            if call.verb in self.refuses or call.polls_for in self.bars:
                fate = Fate.REFUSED
            if fate is Fate.SLOW:
                await asyncio.sleep(self.toxics.slow_s)
            reply = b""
            if fate not in {Fate.RESET_BEFORE, Fate.REFUSED}:
                reply, trouble = await upstream.ask(request)
                fate = trouble or fate
            if call.verb in self.holds and reply and not reply.endswith(_NOTHING):
                self.calls.append(replace(call, fate=Fate.HELD))
                await reader.read()
                return False
            self.calls.append(replace(call, fate=fate, answered_s=time.time()))
            return await self._answer(writer, reply, fate)

    @contextlib.contextmanager
    def _counted(self, call: Call) -> Iterator[None]:
        """Counts a poll before `bars` is checked, so that a barred pid without a counted poll has none under way."""
        self.polling[call.polls_for] += 1
        try:
            yield
        finally:
            self.polling[call.polls_for] -= 1

    async def _answer(self, writer: asyncio.StreamWriter, reply: bytes, fate: Fate) -> bool:
        match fate:
            case Fate.PASSED | Fate.SLOW:
                writer.write(reply)
            case Fate.REFUSED:
                writer.write(_REFUSED)
            case Fate.RESET_AMID:
                writer.write(reply[: len(reply) // 2])
                await writer.drain()
                await asyncio.sleep(0.01)  # the half must leave before the reset overtakes it
                return _reset(writer)
            case _:
                return _reset(writer)
        await writer.drain()
        return True

    def _fate(self) -> Fate:
        toxics, chance = self.toxics, self._rng.random()
        for share, fates in (
            (toxics.reset, (Fate.RESET_BEFORE, Fate.RESET_AMID, Fate.RESET_AFTER)),
            (toxics.refuse, (Fate.REFUSED,)),
            (toxics.slow, (Fate.SLOW,)),
        ):
            if chance < share:
                return self._rng.choice(fates)
            chance -= share
        return Fate.PASSED


class _Upstream:
    """A connection to the engine, opened again when it is lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[bytes, Fate | None]:
        """Returns the whole reply, or the error."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return b"", Fate.UNREACHABLE
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.readexactly(_length(head)), None
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return b"", Fate.UNANSWERED

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _reset(writer: asyncio.StreamWriter) -> bool:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
    return False


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    assert b"chunked" not in head, head
    return int(found[1]) if found else 0


def _noted(at_s: float, head: bytes, body: bytes, fate: Fate) -> Call:
    found = _VERB.search(head.split(b"\r\n", 1)[0].decode())
    if found is None:
        return Call(at_s, "other", "", "", fate)
    activity_id, verb, poll, token = found.groups()
    with contextlib.suppress(ValueError):  # a token request is a form
        return Call(at_s, verb or poll, activity_id or "", str(json.loads(body).get("worker_id", "")), fate)
    return Call(at_s, verb or poll or token, activity_id or "", "", fate)
