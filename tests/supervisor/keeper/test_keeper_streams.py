"""`/api/events`: clients get events in order and once, cost little and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from flowherd.errors import EngineError, EngineMisconfigured, EngineUnauthorized, EngineUnavailable
from flowherd.leases.heartbeat_contact import Trouble
from flowherd.link.bounded_messages import noted
from flowherd.link.messages import encode
from flowherd_supervisor.keeper.event_stream import KEPT, MOST_WATCHERS, OWN, EventLog, OwnLog, Streams


class Watcher:
    """A browser's EventSource."""

    def __init__(self, streams: Streams, last_seen: bytes = b"") -> None:
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._leave = asyncio.Event()
        headers = {b"last-event-id": last_seen} if last_seen else {}
        self.task = asyncio.get_running_loop().create_task(streams.serve(headers, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        for block in message.get("body", b"").decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in lines:
                self.events.put_nowait((lines["event"], msgspec.json.decode(lines["data"])))

    async def next(self, kind: str) -> Any:
        async with asyncio.timeout(10):
            while True:
                event, data = await self.events.get()
                if event == kind:
                    return data

    async def leave(self) -> None:
        self._leave.set()
        async with asyncio.timeout(10):
            await self.task


async def test_what_happens_is_seen_at_once_and_in_order_and_the_status_beside_it() -> None:
    """A killed process is visible within a second; an event does not wait for the next status."""
    events = EventLog()
    events.add(1.0, "info", "process_ready", {"process": 0})
    watcher = Watcher(Streams(events, lambda: {"state": "running"}))
    assert (await watcher.next("happened"))["event"] == "process_ready"
    assert await watcher.next("status") == {"state": "running"}
    other = threading.Thread(target=events.add, args=(2.0, "warning", "process_died", {"process": 1}))
    other.start()
    seen = await watcher.next("happened")
    other.join()
    assert (seen["event"], seen["process"], seen["level"]) == ("process_died", 1, "warning")
    await watcher.leave()


async def test_a_client_that_reconnects_gets_the_missed_events_and_none_twice() -> None:
    """The browser sends the last id; ids stay valid from one keeper to the next."""
    events = EventLog()
    for second in range(5):
        events.add(100.0 + second, "info", f"event_{second}", {})
    watcher = Watcher(Streams(events, dict))
    seen = [await watcher.next("happened") for _ in range(5)]
    await watcher.leave()
    successor = EventLog()
    for second in range(6):
        successor.add(100.0 + second, "info", f"event_{second}", {})
    again = Watcher(Streams(successor, dict), last_seen=str(seen[3]["id"]).encode())
    assert [(await again.next("happened"))["event"] for _ in range(2)] == ["event_4", "event_5"]
    await again.leave()


async def test_watchers_share_one_document_and_leave_nothing_behind() -> None:
    """Sixteen browsers must not measure the host sixteen times a second."""
    made: list[int] = []

    def status() -> dict[str, int]:
        made.append(1)
        return {"made": len(made)}

    events = EventLog()
    streams = Streams(events, status)
    watchers = [Watcher(streams) for _ in range(MOST_WATCHERS)]
    for watcher in watchers:
        assert await watcher.next("status") == {"made": 1}
    assert streams.full
    for watcher in watchers:
        await watcher.leave()
    assert not streams.full
    assert events._listeners == []


async def test_a_watcher_whose_last_seen_is_nonsense_sees_everything() -> None:
    """Client data is not trusted and must not cause an error."""
    events = EventLog()
    events.add(1.0, "info", "one", {})
    for nonsense in (b"-1", b"abc", b"9" * 50, "²".encode("latin-1")):
        watcher = Watcher(Streams(events, dict), nonsense)
        assert (await watcher.next("happened"))["event"] == "one"
        await watcher.leave()


def test_events_of_one_moment_have_different_numbers_and_the_oldest_are_forgotten() -> None:
    """A storm must not fill the keeper's memory."""
    events = EventLog()
    for _ in range(KEPT + 10):
        events.add(5.0, "info", "same", {})
    numbers = [one["id"] for one in events.after(0)]
    assert len(numbers) == len(set(numbers)) == KEPT
    assert numbers == sorted(numbers)


def test_the_keepers_own_log_adds_its_records_to_the_events(caplog: pytest.LogCaptureFixture) -> None:
    """Only the keeper notices a lost lease. Only plain values are taken."""
    del caplog
    events = EventLog()
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    logger = logging.getLogger("test_own_log")
    handler = OwnLog(events)
    logger.addHandler(handler)
    try:
        log = structlog.stdlib.get_logger("test_own_log")
        log.warning("lease_lost", activity_id="a-1", process="keeper", odd=object())
        log.warning("something_else")
    finally:
        logger.removeHandler(handler)
    [one] = events.after(0)
    assert (one["event"], one["level"], one["activity_id"]) == ("lease_lost", "warning", "a-1")
    assert "odd" not in one
    assert "process" not in one


@pytest.mark.parametrize("kind", [EngineMisconfigured, EngineUnauthorized, EngineUnavailable])
@pytest.mark.parametrize("is_engines", [True, False])
def test_no_trouble_with_the_engine_is_shown_to_end_that_was_not_shown_to_begin(
    kind: type[EngineError], *, is_engines: bool
) -> None:
    error = kind("status 500")
    error.is_engines = is_engines
    trouble = Trouble()
    with capture_logs() as lines:
        trouble.met(error, 1.0, 2)
        trouble.over(60.0)
    assert len(lines) == 2
    assert {line["event"] for line in lines} <= OWN


def test_a_note_fits_into_a_message_whatever_it_holds() -> None:
    """A drain may name thousands of undelivered activities."""
    fields = {
        "undelivered": ["x" * 40] * 5000,
        "activities": {str(n): "loop" for n in range(5000)},
        "text": "\ud800" * 100_000,
        "n": 3,
    }
    note = noted(1.0, "info", "stopped", fields)
    assert note.fields["undelivered"] == note.fields["activities"] == 5000
    assert note.fields["n"] == 3
    assert len(encode(note)) < 10_000
