"""Helpers for the worker's tests: ledgers, segments, forked processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from flowherd.leases.lease_scan import LeaseKeeper, ends_the_rest
from flowherd.ledger import Ledger, RecordWriter
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowherd.ledger import Segment


def open_segment(ledger: Ledger, *, index: int = 0, incarnation: int = 1) -> Segment:
    """Builds a segment that its worker has not opened yet."""
    segment = ledger.free_segment()
    assert segment is not None
    segment.open(index=index, incarnation=incarnation, now=1.0)
    return segment


def claim(writer: RecordWriter, name: str = "resize", *, activity_id: str = "a-1") -> tuple[int, int]:
    """Writes a CLAIMED record; returns its index and sequence."""
    return writer.claim(activity_id, "w-1", name, now=10.0, lease_s=60.0)


@contextlib.contextmanager
def child_that(work: Callable[[], None]) -> Iterator[int]:
    """A forked process that runs `work`; killed and reaped at the end if it still runs."""
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):  # the parent sees the exit code
            work()
            os._exit(0)
        os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class LeasedHost:
    """One worker's ledger with a keeper beside it, on the loop's clock."""

    def __init__(
        self, *, ledger: Ledger | None = None, engine: FakeEngine | None = None, **settings: Any
    ) -> None:
        self.engine = engine or FakeEngine()
        self.ledger = ledger or Ledger(processes=1, records=200)
        self.segment = open_segment(self.ledger)
        self.writer = RecordWriter(self.segment)
        self.woken: list[int] = []
        self.config = WorkerConfig(**settings)
        self.start_keeper()

    def start_keeper(self) -> None:
        loop = asyncio.get_running_loop()
        self.keeper = LeaseKeeper(
            self.engine, self.engine, self.ledger, self.config, self.woken.append, loop.time
        )
        self.running = loop.create_task(self.keeper.run())

    def claim(
        self, lease_s: float = 60.0, *, activity_id: str = "a-1", worker_id: str = "w-1"
    ) -> tuple[int, int]:
        now = asyncio.get_running_loop().time()
        claimed = self.writer.claim(activity_id, worker_id, "resize", now=now, lease_s=lease_s)
        if ends_the_rest(self.ledger, self.segment, lease_s, now):
            self.keeper.woken.set()
        return claimed

    @property
    def beats(self) -> list[str]:
        return [call.activity_id for call in self.engine.of("heartbeat")]
