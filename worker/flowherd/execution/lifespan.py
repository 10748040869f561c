"""The app's lifespan: its start-up and clean-up around the work of one process."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.errors import LifespanFailed
from flowherd.execution.load_app import users_traceback
from flowherd.own_tasks import separate_task

if TYPE_CHECKING:
    from flowherd.own_tasks import OwnTask
    from flowherd.sdk.registry import MakeLifespan, Registry

LEAVE_S = 0.4  # added to the rest of a drain; the process is killed 1.5 s after its drain limit

log = structlog.stdlib.get_logger(__name__)


class Lifespan:
    """A lifespan that has been entered, or an empty one for an app without any.

    It runs in a task of its own, because many context managers must be exited by the task that entered them.

    Attributes:
        state: the value it yielded, `ctx.state` for handlers.

    """

    def __init__(self) -> None:
        self.state: Any = None
        self._left = asyncio.Event()
        self._entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: OwnTask[None] | None = None

    async def leave(self, within_s: float) -> None:
        """Exits the lifespan; logs a warning and stops waiting when it takes longer than `within_s` seconds."""
        if self._task is None:
            return
        self._left.set()
        await asyncio.wait({self._task}, timeout=max(within_s, 0.0))
        if not self._task.done():
            log.warning("lifespan_did_not_end", within_s=round(within_s, 2))

    async def _enter(self, make: MakeLifespan) -> None:
        self._task = task = separate_task(self._live(make), "lifespan")
        await asyncio.wait({task, self._entered}, return_when=asyncio.FIRST_COMPLETED)
        if not self._entered.done():
            error = _end_of(task)
            raise LifespanFailed(f"the app's lifespan {_described(error)}", _report(error)) from error
        task.add_done_callback(_say_how_it_ended)

    async def _live(self, make: MakeLifespan) -> None:
        async with make() as self.state:
            self._entered.set_result(None)
            await self._left.wait()


async def enter(registry: Registry) -> Lifespan:
    """Enters the registry's lifespan on the running loop; `leave` must follow.

    Raises:
        LifespanFailed: the lifespan raised, or ended without yielding; has the user's part of the traceback.

    """
    lifespan = Lifespan()
    if registry.lifespan is not None:
        await lifespan._enter(registry.lifespan)  # noqa: SLF001 - the only way to enter one
    return lifespan


def _end_of(task: asyncio.Task[None]) -> BaseException | None:
    """Returns the exception that ended the task; None when it returned."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _described(error: BaseException | None) -> str:
    if error is None:
        return "ended before it had begun"
    return f"raised {traceback.format_exception_only(error)[-1].strip()}"


def _report(error: BaseException | None) -> str:
    return "" if error is None else users_traceback(error)


def _say_how_it_ended(task: asyncio.Task[None]) -> None:
    """Logs an exception of the lifespan after it was entered, during its work or its exit."""
    error = _end_of(task)
    if error is not None:
        log.error("lifespan_raised", reason=_described(error), exception=_report(error))
