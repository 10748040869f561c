"""Streamed text: few calls, in order, one at a time; what goes wrong costs the handler nothing (protocol.md §10)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from virtual_time import now, virtual_time

from flowherd import ActivityContext, SyncActivityContext
from flowherd.client.text_streams import EVERY_S, MOST_CHARS, EngineStreams
from flowherd.errors import EngineUnavailable
from flowherd.execution.run_environment import RunEnvironment
from flowherd.sdk.run_state import CancelReason, RunState
from flowherd.testing import FakeEngine, make_activity, run_activity, run_activity_sync

AWAY = EngineUnavailable("connection refused")


class Streaming:
    """Attempts that stream to an engine in memory."""

    def __init__(self, *answers: Any) -> None:
        self.engine = FakeEngine()
        self.engine.script("stream_text", *answers)
        self.streams = EngineStreams(self.engine)

    def state(self, **fields: Any) -> RunState:
        environment = RunEnvironment(streams=self.streams, secrets=("s3cret",))
        return RunState(make_activity("work", **fields), environment)

    def context(self, **fields: Any) -> ActivityContext:
        return ActivityContext(self.state(**fields))

    @property
    def pieces(self) -> list[tuple[int, str]]:
        return [(call.body["index"], call.body["text"]) for call in self.engine.of("stream_text")]

    @property
    def ends(self) -> list[str | None]:
        return [call.body["error"] for call in self.engine.of("stream_end")]


@virtual_time
async def test_text_that_comes_close_together_goes_in_one_call() -> None:
    """At most one call in 50 ms; the first goes at once."""
    given = Streaming(1, 1, 1, 1)
    begun = now()
    async with given.context().stream() as stream:
        for number in range(100):
            await stream.send(f"{number} ")
            await asyncio.sleep(0.001)
    await asyncio.sleep(1)
    assert "".join(text for _, text in given.pieces) == "".join(f"{number} " for number in range(100))
    assert [index for index, _ in given.pieces] == list(range(len(given.pieces)))
    assert 3 <= len(given.pieces) <= 2 + 0.1 / EVERY_S
    assert given.ends == [None]
    assert now() - begun < 2


@virtual_time
async def test_without_subscribers_one_call_a_second_is_enough() -> None:
    given = Streaming()
    async with given.context().stream() as stream:
        for _ in range(100):
            await stream.send("x")
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    assert sum(len(text) for _, text in given.pieces) == 100
    assert 5 <= len(given.pieces) <= 7


@virtual_time
async def test_one_call_at_a_time_however_slow_the_engine_is() -> None:
    under_way = most = 0

    async def slowly() -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.3)
        under_way -= 1
        return 1

    given = Streaming(*[slowly] * 20)
    async with given.context().stream() as stream:
        for number in range(100):
            await stream.send(f"{number},")
            await asyncio.sleep(0.01)
    await asyncio.sleep(2)
    assert most == 1
    assert "".join(text for _, text in given.pieces) == "".join(f"{number}," for number in range(100))


@virtual_time
async def test_what_is_more_than_the_buffer_holds_is_dropped_and_leaves_a_gap() -> None:
    """Memory is bounded whatever a handler sends."""
    given = Streaming(1, 1, 1)
    async with given.context().stream() as stream:
        stream._put("a" * MOST_CHARS)
        stream._put("too much")
        await asyncio.sleep(0.01)
        await stream.send("after the gap")
    await asyncio.sleep(1)
    assert given.pieces == [(0, "a" * MOST_CHARS), (2, "after the gap")]


@virtual_time
async def test_an_engine_that_is_away_is_asked_by_few_and_fails_no_handler() -> None:
    """16 handlers stream through an outage of 30 s; each call that fails has lost its text, and nothing else."""
    given = Streaming(*[AWAY] * 60)

    async def handler(number: int) -> None:
        async with given.context(number=number).stream() as stream:
            for _ in range(300):
                await stream.send("x")
                await asyncio.sleep(0.1)

    await asyncio.gather(*(handler(number) for number in range(1, 17)))
    assert 4 <= len(given.pieces) <= 16 + 15
    given.engine._scripts["stream_text"].clear()
    await asyncio.sleep(15)
    async with given.context().stream() as stream:
        await stream.send("back")
    await asyncio.sleep(1)
    assert given.pieces[-1] == (0, "back")
    assert given.ends[-1] is None


@virtual_time
async def test_the_end_of_a_stream_says_how_it_ended() -> None:
    """A message that holds a secret is masked: subscribers are not always the workflow's owners."""
    given = Streaming(1, 1, 1)

    async def fails() -> None:
        async with given.context().stream() as stream:
            await stream.send("x")
            raise ValueError("no s3cret here")

    with pytest.raises(ValueError):
        await fails()
    with pytest.raises(asyncio.CancelledError):
        async with given.context().stream():
            raise asyncio.CancelledError
    await asyncio.sleep(1)
    assert sorted(map(str, given.ends)) == ["no *** here", "the attempt was stopped"]


@virtual_time
async def test_an_attempt_whose_lease_is_lost_says_nothing_more() -> None:
    """Another worker streams for this activity by then: an end would cut off its subscribers."""
    given = Streaming(1, 1)
    state = given.state()
    async with ActivityContext(state).stream() as stream:
        await stream.send("mine ")
        await asyncio.sleep(0.1)
        state.cancel_reason = CancelReason.LEASE_LOST
        await stream.send("not mine")
    await asyncio.sleep(1)
    assert given.pieces == [(0, "mine ")]
    assert given.ends == []


@pytest.mark.parametrize("streaming", [False, {"enabled": False}])
@virtual_time
async def test_a_definition_that_switches_streaming_off_is_obeyed(streaming: Any) -> None:
    given = Streaming()
    async with given.context(settings={"streaming": streaming}).stream() as stream:
        await stream.send("x")
    await asyncio.sleep(1)
    assert given.engine.calls == []


@virtual_time
async def test_only_text_can_be_streamed_and_all_of_it() -> None:
    """Half a surrogate pair is no JSON; anything but text is the handler's mistake."""
    given = Streaming(1)
    async with given.context().stream() as stream:
        await stream.send("\ud800 é")
        with pytest.raises(TypeError, match="not bytes"):
            await stream.send(b"x")
    await asyncio.sleep(1)
    assert given.pieces == [(0, "? é")]


async def test_a_handler_in_a_thread_streams_through_the_workers_loop() -> None:
    given = Streaming(1, 1, 1)

    def handler() -> None:
        with SyncActivityContext(given.state()).stream() as stream:
            for word in ("from ", "a ", "thread"):
                stream.send(word)

    thread = threading.Thread(target=handler)
    thread.start()
    await given.engine.until(lambda engine: bool(engine.of("stream_end")))
    thread.join()
    assert "".join(text for _, text in given.pieces) == "from a thread"


async def test_streams_that_are_closed_have_sent_what_waited() -> None:
    """The end of a worker: the last words of the last handler."""
    given = Streaming(1, 1)
    async with given.context().stream() as stream:
        await stream.send("last words")
    await given.streams.aclose()
    assert (given.pieces, given.ends) == ([(0, "last words")], [None])


async def test_a_test_sees_what_its_handler_has_streamed() -> None:
    async def handler(ctx: ActivityContext) -> None:
        async with ctx.stream() as stream:
            await stream.send("hello ")
            await stream.send("world")

    assert (await run_activity(handler)).streamed == "hello world"


def test_a_test_sees_what_its_plain_handler_has_streamed() -> None:
    def handler(ctx: SyncActivityContext) -> None:
        with ctx.stream() as stream:
            stream.send("hello")

    assert run_activity_sync(handler).streamed == "hello"
