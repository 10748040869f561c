"""Activities that stop the event loop or cancel the tasks of their process (faults.md A21, A22, A23)."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from flowherd import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

registry = Registry()


@registry.activity
async def neighbour(seconds: float) -> str:
    """Waits, and knows nothing of the others."""
    await asyncio.sleep(seconds)
    return "done"


@registry.activity
async def stop_the_loop(where: str) -> str:
    """Stops the loop, from here or from a thread."""
    loop = asyncio.get_running_loop()
    _do(where, loop.stop)
    await asyncio.sleep(0.2)
    return "still here"


@registry.activity
async def cancel_all(where: str, times: int = 1) -> str:
    """Cancels every task of the loop but its own, from here or from a thread."""
    loop, own = asyncio.get_running_loop(), asyncio.current_task()

    def cancel() -> None:
        for task in asyncio.all_tasks(loop) - {own}:
            task.cancel()

    for _ in range(times):
        _do(where, cancel)
        await asyncio.sleep(0.2)
    return "still here"


def _do(where: str, work: Callable[[], Any]) -> None:
    """Calls `work` in the handler, in a callback of a thread's, or in a thread."""
    loop = asyncio.get_running_loop()
    if where == "handler":
        work()
    elif where == "callback":
        threading.Thread(target=loop.call_soon_threadsafe, args=(work,)).start()
    else:
        threading.Thread(target=work).start()
