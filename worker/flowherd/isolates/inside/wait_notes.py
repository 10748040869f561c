"""Notes in the ledger whether the handler of an isolate waits, so that a kill from outside is not held against it.

A SIGKILL tells nothing of its sender. If the handler waits (`await`) and this process has not sent the signal itself,
it came from outside (`flowherd.leases.suspects`). A task or thread that kills its own process by `os.kill` is seen by
an audit hook; C code that does so while the handler waits is not.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from flowherd.activities_and_outcomes import Result
    from flowherd.isolates.inside.isolate_engine import UsageKeeper

_KILLS = frozenset({"os.kill", "os.killpg", "signal.pthread_kill"})


async def noted(work: Coroutine[Any, Any, Result], keeper: UsageKeeper) -> Result:
    """Runs a handler's coroutine with notes of its waits."""
    return await NotedSteps(work, keeper)


class NotedSteps:
    """Awaits a handler's coroutine, and notes when it begins and ends to wait.

    Args:
        work: the coroutine; awaiting this returns what it returns.
        keeper: stores the notes.

    """

    def __init__(self, work: Coroutine[Any, Any, Result], keeper: UsageKeeper) -> None:
        self._work = work
        self._keeper = keeper

    def __await__(self) -> Generator[Any, Any, Result]:
        """Returns self, which has all methods of a generator that `await` needs."""
        return self  # type: ignore[return-value]

    def __next__(self) -> Any:
        """Runs one step."""
        return self._step(self._work.send, None)

    send = __next__

    def throw(self, *error: Any) -> Any:
        """Runs one step that begins with an exception, such as a cancellation."""
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        """Closes the handler's coroutine."""
        self._work.close()

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        self._keeper.note_wait(waits=False)
        waits_for = step(*value)
        self._keeper.note_wait(waits=True)
        return waits_for


class OwnKills:
    """Sees that this process sends SIGKILL to itself. An audit hook cannot be removed: one for each process.

    Attributes:
        keeper: of the attempt at work, None between attempts.

    """

    def __init__(self) -> None:
        self.keeper: UsageKeeper | None = None

    def watch(self) -> None:
        """Begins to look."""
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.keeper is None or event not in _KILLS or arguments[1] != signal.SIGKILL:
            return
        targets = {0, -1, os.getpid(), -os.getpgrp()} if event == "os.kill" else {0, os.getpgrp()}
        if event == "signal.pthread_kill" or arguments[0] in targets:
            self.keeper.note_wait(waits=False)
