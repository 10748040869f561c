"""An event loop whose clock jumps to the next timer when nothing else is left to do; it never waits."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any

from flowherd.event_loop import run_to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_REAL_CEILING_S = 10.0  # a test that would wait without any timer
_ROUNDS = 10  # a handler's end starts a sender, which may start another one


class _JumpingSelector(selectors.DefaultSelector):
    """Moves its loop's clock instead of waiting."""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            ready = super().select(_REAL_CEILING_S)
            if not ready:
                raise RuntimeError("the test waits for something that never comes")
            return ready
        self.loop.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 1000 s, so that 0 is always long ago."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Returns virtual seconds."""
        return self.now


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on its own loop with a virtual clock; the test must not wait for real I/O.

    Tasks that the test leaves are cancelled, and so are those that they start when they are cancelled, such as the
    sender of a handler's last outcome.
    """

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))
            _cancel_all(runner.get_loop())

    return run


def main_task(
    test: Callable[..., Coroutine[Any, Any, None]], give_up: Callable[[], None] | None = None
) -> Callable[..., None]:
    """Runs an async test as `virtual_time` does, in the main task of a worker process.

    Args:
        test: the test.
        give_up: see `run_to_the_end`; None for a test that fails then.

    """

    def fail() -> None:
        raise AssertionError("the process would have been replaced")

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = VirtualTimeLoop()
        try:
            run_to_the_end(loop, test(*args, **kwargs), give_up or fail)
        finally:
            _cancel_all(loop)
            loop.close()

    return run


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(_ROUNDS):
        left = asyncio.all_tasks(loop)
        if not left:
            return
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    raise AssertionError(f"a cancelled task is replaced by another without end: {asyncio.all_tasks(loop)}")


def now() -> float:
    """Returns the running loop's time in seconds."""
    return asyncio.get_running_loop().time()
