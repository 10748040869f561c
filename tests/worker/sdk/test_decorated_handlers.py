"""An `async def` behind an ordinary decorator, a plain def that returns its coroutine, is an async handler."""

import asyncio
import functools
import threading

import pytest

from flowherd import ActivityContext, SyncActivityContext, activity
from flowherd.sdk.activity_decorator import definition_of
from flowherd.sdk.activity_definition import Mode
from flowherd.testing import run_activity_sync


def counted(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def cached(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return {"cached": True}

    return call


def scheduled(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return asyncio.ensure_future(function(*args, **kwargs))

    return call


def unnamed(function):
    def call(ctx):
        return function(ctx)

    return call


async def work(ctx, n: int = 1):
    await ctx.heartbeat()
    return {
        "kind": type(ctx).__name__,
        "n": n,
        "thread": threading.current_thread() is threading.main_thread(),
    }


class Worker:
    name = "work"

    @counted
    async def execute(self, ctx: ActivityContext, n: int = 1):
        return await work(ctx, n)


@pytest.mark.parametrize(
    "handler",
    [counted(work), counted(counted(work)), scheduled(work), functools.partial(counted(work)), Worker()],
)
def test_it_gets_the_async_context_and_the_loop(handler):
    """It ran in a thread, with a context whose heartbeat() cannot be awaited."""
    decorated = activity(name="work")(handler)
    assert (definition_of(decorated).mode, definition_of(decorated).is_async) == (Mode.LOOP, True)
    output = run_activity_sync(decorated, {"n": "2"}).output
    assert output == {"kind": "ActivityContext", "n": 2, "thread": True}


def test_moved_to_a_thread_it_runs_on_a_loop_there():
    """Its own offload goes on to hold."""
    handler = activity(name="work", offload="thread")(counted(work))
    assert run_activity_sync(handler).output == {"kind": "ActivityContext", "n": 1, "thread": False}


def test_what_the_decorator_returns_itself_is_the_output():
    """Such as a cache does, without any coroutine."""
    assert run_activity_sync(activity(name="work")(cached(work))).output == {"cached": True}


def test_a_decorator_that_does_not_say_what_it_wraps_still_completes_in_a_thread():
    """It cannot be detected: it is a plain def that returns a coroutine."""

    async def inner(ctx):
        await asyncio.sleep(0)
        return isinstance(ctx, SyncActivityContext)

    handler = activity(name="work")(unnamed(inner))
    assert definition_of(handler).mode is Mode.THREAD
    assert run_activity_sync(handler).output == {"result": True}


def test_an_async_wrapper_around_a_plain_def_is_async_and_a_plain_one_stays_plain():
    """The outermost coroutine function decides."""

    def plain(n):
        return n

    @functools.wraps(plain)
    async def moved(n):
        await asyncio.sleep(0)
        return plain(n)

    assert definition_of(activity(moved)).mode is Mode.LOOP
    assert definition_of(activity(name="counted")(counted(plain))).mode is Mode.THREAD


@pytest.mark.parametrize("depth", [1, 2])
def test_a_decorator_above_activity_is_a_part_of_the_handler(depth: int):
    """functools.wraps copies what @activity has noted, and with it the undecorated function was run."""
    handler = activity(name="work", timeout_s=7)(work)
    for _ in range(depth):
        handler = cached(handler)
    definition = definition_of(handler)
    assert definition is not None
    assert (definition.name, definition.timeout_s, definition.handler) == ("work", 7.0, handler)
    assert run_activity_sync(handler).output == {"cached": True}


def awaited(function):
    @functools.wraps(function)
    async def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("offload", ["thread", "process", None])
@pytest.mark.parametrize("decorate", [awaited, counted])
def test_a_decorator_above_activity_leaves_the_offload_that_was_asked_for(offload, decorate):
    """`offload="thread"` on a plain `def` looked like the default, and an `async def` around it ran on the loop."""

    def plain(n: int = 1) -> int:
        return n

    decorated = decorate(activity(offload=offload)(plain))
    beside = activity(offload=offload)(decorate(plain))
    assert definition_of(decorated).mode is definition_of(beside).mode
