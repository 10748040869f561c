"""A21: the loop stops when its work has ended, whatever other code wants."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from flowherd.attempt_ids import AttemptIds, working_for
from flowherd.event_loop import new_loop, run_to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CEILING_S = 10.0
WHO = AttemptIds("a-1", "wf-1", "step", "meddle")


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made = new_loop(request.param)()
    yield made
    made.close()


def never() -> None:
    raise AssertionError("nobody cancels anything")


def directly(loop: asyncio.AbstractEventLoop) -> None:
    loop.stop()


def twice(loop: asyncio.AbstractEventLoop) -> None:
    loop.stop()
    loop.stop()


def from_a_callback(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)


def from_a_thread(loop: asyncio.AbstractEventLoop) -> None:
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    thread.start()
    thread.join(CEILING_S)


def unsafely_from_a_thread(loop: asyncio.AbstractEventLoop) -> None:
    thread = threading.Thread(target=loop.stop)
    thread.start()
    thread.join(CEILING_S)


def to_close_it(loop: asyncio.AbstractEventLoop) -> None:
    loop.stop()
    with pytest.raises(RuntimeError):
        loop.close()


@pytest.mark.parametrize(
    "stop", [directly, twice, from_a_callback, from_a_thread, unsafely_from_a_thread, to_close_it]
)
def test_a21_a_loop_that_is_stopped_goes_on_and_names_the_activity(
    loop: asyncio.AbstractEventLoop, stop: Callable[[asyncio.AbstractEventLoop], None]
) -> None:
    """The name is known when the code of a handler calls, or a callback that it has made."""

    async def handler() -> None:
        working_for.set(WHO)
        stop(loop)

    async def work() -> str:
        await loop.create_task(handler())
        await asyncio.sleep(0.01)
        return "done"

    with capture_logs() as lines:
        assert run_to_the_end(loop, work(), never) == "done"
    ignored = [line for line in lines if line["event"] == "loop_stop_ignored"]
    assert len(ignored) == (2 if stop is twice else 1)
    if "thread" not in stop.__name__:
        assert {line["activity_name"] for line in ignored} == {"meddle"}
    if stop is directly:
        assert ignored[0]["at"].startswith(__file__)


def test_a21_a_stop_before_the_loop_runs_does_not_end_its_next_work(loop: asyncio.AbstractEventLoop) -> None:
    """A plain function in an isolate has the loop to itself, which runs again for the next activity."""
    loop.stop()
    assert loop.run_until_complete(asyncio.sleep(0.01, "done")) == "done"


def test_a_loop_that_runs_for_ever_is_stopped_by_stop(loop: asyncio.AbstractEventLoop) -> None:
    """As that of the file transfers is."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_c9_the_loop_goes_on_after_a_task_that_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Such as one that a handler has left behind; its work may end afterwards."""

    async def exits() -> None:
        raise SystemExit(3)

    async def work() -> Any:
        left_behind = loop.create_task(exits())
        await asyncio.wait({left_behind})
        loop.stop()
        await asyncio.sleep(0.01)
        return left_behind.exception()

    assert isinstance(run_to_the_end(loop, work(), never), SystemExit)
