"""Prepares the process that all others are forked from, so that they share memory: imports and a rehearsal of work.

Importing httpx and its backends costs each child 10 MB and 50 ms; inherited, they cost nothing.

Python counts a function's calls in its code object, specialises hot code, and keeps caches in types. Each forked
process that does so itself copies every page it touches. `rehearse` therefore builds workers one after the other, which
poll a server on the same loop, run flowherd's own activities and drain. It uses no app, logs nothing, and leaves no
thread, socket or task. A process with numpy and pandas then owns 7.7 MB after 10,000 activities, without it 10.8 MB
(2026-11, `tests/bench/fork_cost.py`, medians of three).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import logging
import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from flowherd import crashpoints
from flowherd.client.kruxia import encoded
from flowherd.event_loop import new_loop
from flowherd.execution.activity_costs import SAMPLED_FIRST
from flowherd.execution.lifespan import enter
from flowherd.files.scratch_folders import default_base
from flowherd.ledger import Cause, Ledger, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.link.bounded_messages import ready
from flowherd.link.link import Link
from flowherd.link.messages import Quiet, Resume, SetSlots, decode_downward
from flowherd.process.build_worker import BuiltWorker, WorkerPlace
from flowherd.process.supervisor_commands import execute
from flowherd.sdk.registry import Registry
from flowherd.telemetry.begin_and_end_tracing import is_asked_for
from flowherd.transport.transport import new_client
from flowherd.transport.wire_format import Origin, base_path_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.settings.worker_config import WorkerConfig

_NEEDED_BY_EVERY_WORKER = ("anyio._backends._asyncio", "h11", "httpcore")
_PERHAPS = ("uvloop",)
LIVES = 10  # Python specialises code that has run eight times
_BUDGET_S = 0.25  # the most that an app waits; an idle machine takes a fifth
_ACTIVITIES = 12  # in each life but the first
_MANY = SAMPLED_FIRST + _ACTIVITIES  # in the first life: all samples of one activity, and some more
_PATIENCE_S = 5.0  # for one life: it takes milliseconds, but through httpx on a busy machine a second
_TYPE = "rehearsal"
_RECEIPT = b'{"acknowledged":true}'
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_ITEM = (
    b'{"activity_id":"00000000-0000-7000-8000-%012x","workflow_id":"00000000-0000-7000-8000-000000000000",'
    b'"activity_key":"rehearsed","worker":"rehearsal","activity_name":"rehearsed","parameters":{},"settings":{},'
    b'"timeout_seconds":null}'
)

log = structlog.stdlib.get_logger(__name__)
_registry = Registry()


@_registry.activity
async def rehearsed() -> int:
    """Does nothing."""
    return 0


def warm_up(api_url: str = "") -> None:
    """Imports, builds a client and drops it, and keeps the children's garbage collectors off all of that."""
    for name in _NEEDED_BY_EVERY_WORKER:
        importlib.import_module(name)
    for name in _PERHAPS:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    if is_asked_for():
        importlib.import_module("flowherd.telemetry.span_export")
    new_client(api_url or "http://127.0.0.1", None, connections=1)  # never opened: nothing to close
    gc.collect()
    gc.freeze()


def rehearse(config: WorkerConfig, *, lives: int = LIVES, budget_s: float = _BUDGET_S) -> int:
    """Runs workers one after the other; returns the number of complete lives, from the first poll to the last report.

    An error ends the rehearsal, and costs only memory.

    Args:
        config: the configuration of the real workers; only the engine's URL and the poll intervals are replaced.
        lives: the most lives.
        budget_s: CPU seconds after which no other life begins.

    """
    lived, until = 0, time.thread_time() + budget_s
    if os.environ.get(crashpoints.VARIABLE):  # meant for real workers
        return 0
    if hasattr(sys, "_clear_type_cache"):  # of what importing has looked up: a child would have to make room
        sys._clear_type_cache()  # noqa: SLF001 - documented, and without effect on what programs do
    try:
        default_base()  # finds a writable folder, once for this process and its children
        with _silence():
            while lived < lives and time.thread_time() < until:
                with asyncio.Runner(loop_factory=new_loop(config.loop)) as runner:
                    asyncio.set_event_loop(runner.get_loop())
                    runner.run(_live(config, _ACTIVITIES if lived else _MANY))
                asyncio.set_event_loop(None)
                lived += 1
        for remembered in (encoded, base_path_of, Origin.of):
            remembered.cache_clear()  # each child would have to drop these entries
        base_path_of(config.api_url), Origin.of(config.api_url).authority
    except Exception:  # the host has no loopback, or the app has changed libraries
        log.debug("not_rehearsed", exc_info=True)
    return lived


@contextmanager
def _silence() -> Iterator[None]:
    """Disables logging within the block."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


async def _live(config: WorkerConfig, activities: int) -> None:
    """Runs a worker once, from its build to its last report."""
    stage = _Stage(activities)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # a host name would be resolved in threads
        server = await asyncio.get_running_loop().create_server(lambda: _Engine(stage), sock=listener)
        own = {
            "api_url": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "worker_type": _TYPE,
            "poll_interval_s": 1e-4,
            "poll_interval_max_s": 1e-4,
        }
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await _work(config.model_copy(update=own), stage)
        finally:
            server.close()


async def _work(config: WorkerConfig, stage: _Stage) -> None:
    """Does what `flowherd.process.worker_process` does on its loop, with the supervisor's commands."""
    ours, theirs = Link.pair()
    lifespan = await enter(_registry)
    ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
    ledger.publish_token(_TYPE)
    wakeups, segment = Wakeups(len(ledger.segments)), ledger.segments[0]
    segment.open(index=0, incarnation=1, now=time.monotonic())
    built = BuiltWorker(
        config,
        _registry,
        ledger=ledger,
        segment=segment,
        wakeups=wakeups,
        place=WorkerPlace(0, lifespan.state, theirs),
        most_slots=config.concurrency,
    )
    try:
        theirs.send(ready(_TYPE, {found.name: found.mode.value for found in _registry}))
        for order in (Quiet(), SetSlots(config.concurrency, 0), Resume()):
            ours.send(order)
            if (received := theirs.receive()) is not None:
                execute(built.worker, decode_downward(received[0]))
        run = asyncio.create_task(built.worker.run())
        await stage.is_over.wait()
        built.worker.drain(_PATIENCE_S)
        await run
    finally:
        segment.end(Cause.STOPPED)
        await lifespan.leave(0.0)
        await built.aclose()
        wakeups.close()
        ours.close()
        theirs.close()


class _Stage:
    """Hands out a number of activities; sets `is_over` once each has been completed."""

    def __init__(self, activities: int) -> None:
        self._left = self._unfinished = activities
        self.is_over = asyncio.Event()

    def reply_to(self, verb: bytes, body: bytes) -> bytes:
        """Returns the body of the engine's reply."""
        if verb == b"poll":
            some = min(msgspec.json.decode(body)["max_activities"], self._left)
            self._left -= some
            items = b",".join(_ITEM % (self._left + number) for number in range(some))
            return b'{"activities":[%b],"count":%d}' % (items, some)
        self._unfinished -= 1
        if not self._unfinished:
            self.is_over.set()
        return _RECEIPT


class _Engine(asyncio.Protocol):
    """The engine's end of one connection."""

    def __init__(self, stage: _Stage) -> None:
        self._stage = stage
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, _, body = self._seen.partition(b"\r\n\r\n")
        length = head.lower().rpartition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length or 1):
            return
        self._seen = b""
        reply = self._stage.reply_to(head.split(b" ", 2)[1].rpartition(b"/")[2], body)
        self._transport.write(_REPLY % (len(reply), reply))
