"""Checkpoints: one an activity, whole or not at all, found by the next attempt (protocol.md §9)."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from files_kit import WORKFLOW, engine_here, files_at
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import Play, scripted_engine
from structlog.testing import capture_logs

from flowherd import ActivityContext, CancelReason, FileError, LeaseLost, SyncActivityContext
from flowherd.errors import InvalidOutput
from flowherd.execution.run_environment import RunEnvironment
from flowherd.sdk.checkpoints import decoded, encoded, reference_of
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity, run_activity, run_activity_sync

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda values: st.lists(values) | st.dictionaries(st.text("abc", max_size=3), values),
    max_leaves=20,
)  # fmt: skip


def state(files, number=1) -> RunState:
    activity = make_activity("work", number=number, workflow_id=WORKFLOW, key="step")
    return RunState(activity, files.environment)


@given(value=JSON)
def test_what_is_kept_is_what_is_found(value) -> None:
    assert decoded(encoded(value)) == value


async def test_the_next_attempt_finds_what_was_kept_last_and_another_activity_nothing(tmp_path) -> None:
    """The activity's id is the same in every attempt (fact 9) and another one in each iteration."""
    async with engine_here() as url, files_at(url, tmp_path / "temp") as files:
        first = ActivityContext(state(files))
        assert await first.resume() is None
        await first.checkpoint({"done": [1]})
        await first.checkpoint({"done": [1, 2]})
        assert await ActivityContext(state(files)).resume() == {"done": [1, 2]}
        assert await ActivityContext(state(files, number=2)).resume() is None


async def test_a_handler_in_a_thread_keeps_and_resumes_without_awaiting(tmp_path) -> None:
    found = []
    async with engine_here() as url, files_at(url, tmp_path / "temp") as files:

        def handler() -> None:
            ctx = SyncActivityContext(state(files))
            found.append(ctx.resume())
            ctx.checkpoint("half")
            found.append(ctx.resume())

        ended = asyncio.Event()  # the engine answers on this loop meanwhile
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=lambda: (handler(), loop.call_soon_threadsafe(ended.set)))
        thread.start()
        await ended.wait()
        thread.join()
    assert found == [None, "half"]


async def test_a_checkpoint_leaves_no_file_behind(tmp_path) -> None:
    async with engine_here() as url, files_at(url, tmp_path / "temp") as files:
        ctx = ActivityContext(state(files))
        for number in range(3):
            await ctx.checkpoint(number)
            assert await ctx.resume() == number
        assert not [path for path in (tmp_path / "temp").rglob("*") if path.is_file()]


@pytest.mark.parametrize("value", [math.nan, {"a": {1, 2}}, "\0", {"deep": [object()]}])
async def test_what_is_no_json_is_refused_before_it_is_sent(value) -> None:
    """A1, A2: and the path is named."""

    async def handler(ctx: ActivityContext) -> None:
        await ctx.checkpoint(value)

    run = await run_activity(handler)
    assert (run.failure.code, run.failure.retryable) == ("INVALID_OUTPUT", False)
    assert "checkpoint" in run.failure.message
    with pytest.raises(InvalidOutput):
        encoded(value)


async def test_a_checkpoint_the_engine_does_not_take_is_said_and_costs_what_was_kept_nothing(
    tmp_path,
) -> None:
    async with scripted_engine() as server, files_at(server.url, tmp_path / "temp") as files:
        ctx = ActivityContext(state(files))
        name = reference_of(make_activity("work")).name
        server.always(name, Play(500, b"broken"))
        with pytest.raises(FileError, match="4 tries"):
            await ctx.checkpoint(1)
        with pytest.raises(FileError, match="4 tries"):
            await ctx.resume()


@pytest.mark.parametrize("content", [b"", b"half a docu", b'{"other":1}', b"[1]"])
async def test_a_file_of_that_name_that_is_not_ours_is_ignored(tmp_path, content: bytes) -> None:
    async with scripted_engine() as server, files_at(server.url, tmp_path / "temp") as files:
        server.always(reference_of(make_activity("work")).name, Play(200, content))
        with capture_logs() as logs:
            assert await ActivityContext(state(files)).resume() is None
        assert [line["event"] for line in logs] == ["checkpoint_ignored"]


async def test_an_attempt_whose_lease_is_lost_keeps_nothing_any_more(tmp_path) -> None:
    """It would overwrite what the attempt that replaced it has kept."""
    async with scripted_engine() as server, files_at(server.url, tmp_path / "temp") as files:
        lost = state(files)
        lost.cancel_reason = CancelReason.LEASE_LOST
        with pytest.raises(LeaseLost):
            await ActivityContext(lost).checkpoint(1)
        assert server.requests == []


async def test_without_an_engine_it_is_said_what_to_do() -> None:
    ctx = ActivityContext(RunState(make_activity("work"), RunEnvironment()))
    with pytest.raises(FileError, match="run_activity"):
        await ctx.checkpoint(1)


def test_a_test_gives_a_checkpoint_and_sees_the_next_one() -> None:
    def handler(ctx: SyncActivityContext) -> int:
        done = ctx.resume() or 0
        ctx.checkpoint(done + 1)
        return done

    first = run_activity_sync(handler)
    assert (first.output, first.checkpoint) == ({"result": 0}, 1)
    again = run_activity_sync(handler, checkpoint=first.checkpoint)
    assert (again.output, again.checkpoint, dict(again.files)) == ({"result": 1}, 2, {})
