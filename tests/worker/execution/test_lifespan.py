"""The app's lifespan: entered before the work, left after it, and never able to hold up either."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowherd import LifespanFailed, Registry, RegistryError
from flowherd.execution.lifespan import enter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Diary:
    """A lifespan that notes in which task it is entered and left."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, asyncio.Task[Any] | None]] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[str]:
        self.entries.append(("entered", asyncio.current_task()))
        yield "a pool"
        self.entries.append(("left", asyncio.current_task()))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self.entries]


async def test_its_value_is_the_state_and_one_task_enters_and_leaves_it() -> None:
    """Cancel scopes and task groups must be left by the task that entered them."""
    diary = Diary()
    lifespan = await enter(Registry(lifespan=diary))
    assert (lifespan.state, diary.words) == ("a pool", ["entered"])
    await lifespan.leave(5.0)
    assert diary.words == ["entered", "left"]
    assert len({task for _, task in diary.entries}) == 1


async def test_an_app_without_one_has_no_state_and_nothing_to_leave() -> None:
    """Registries of the stock SDK have none."""
    lifespan = await enter(Registry())
    assert lifespan.state is None
    await lifespan.leave(5.0)


def test_a_narrowed_or_configured_registry_keeps_its_lifespan() -> None:
    """`for_type` and `[activities.NAME]` make new registries."""
    diary = Diary()
    registry = Registry("py-a", lifespan=diary)

    @registry.activity
    async def work() -> None: ...

    assert registry.for_type("py-a").configured({"work": {"timeout_s": 3}}).lifespan is diary


@asynccontextmanager
async def broken() -> AsyncIterator[None]:
    await asyncio.sleep(0)
    raise RuntimeError("no database")
    yield


@asynccontextmanager
async def leaves_the_process() -> AsyncIterator[None]:
    raise asyncio.CancelledError
    yield


@pytest.mark.parametrize(
    ("lifespan", "reason"),
    [
        (broken, "RuntimeError: no database"),
        (leaves_the_process, "CancelledError"),
        (lambda: None, "asynchronous context manager protocol"),
    ],
)
async def test_one_that_raises_is_a_boot_failure_with_the_users_part_of_the_traceback(
    lifespan: Any, reason: str
) -> None:
    """One traceback, and nothing of ours in it."""
    with pytest.raises(LifespanFailed, match=reason) as caught:
        await enter(Registry(lifespan=lifespan))
    assert reason in caught.value.report
    assert "execution/lifespan.py" not in caught.value.report
    if lifespan is broken:
        assert 'raise RuntimeError("no database")' in caught.value.report


async def test_one_that_does_not_end_is_left_alone_when_its_time_is_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A clean-up must not hold up a drain, not even when it swallows its cancellation."""
    for_ever = asyncio.Event()

    @asynccontextmanager
    async def clings() -> AsyncIterator[None]:
        yield
        await for_ever.wait()

    lifespan = await enter(Registry(lifespan=clings))
    async with asyncio.timeout(5.0):
        await lifespan.leave(0.01)
    assert "lifespan_did_not_end" in caplog.text
    for_ever.set()
    await lifespan.leave(5.0)


async def test_a_lifespan_that_raises_at_its_end_is_logged_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The work has been delivered by then."""

    @asynccontextmanager
    async def bad_at_the_end() -> AsyncIterator[None]:
        yield
        raise OSError("the pool is gone")

    lifespan = await enter(Registry(lifespan=bad_at_the_end))
    await lifespan.leave(5.0)
    await asyncio.sleep(0)  # the callback that says so
    assert "lifespan_raised" in caplog.text
    assert "the pool is gone" in caplog.text


async def an_async_generator() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("lifespan", [an_async_generator, "app.start"])
def test_what_cannot_be_a_lifespan_is_refused_with_the_remedy(lifespan: Any) -> None:
    """The decorator is easily forgotten."""
    with pytest.raises(RegistryError, match="asynccontextmanager"):
        Registry(lifespan=lifespan)
