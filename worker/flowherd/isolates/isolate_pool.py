"""The executor of handlers that run in processes of their own: a worker's isolates; it neither forks nor kills.

An isolate is used again and again, by one activity at a time, until it has run `max_tasks`, was told to stop, or was
idle for `idle_s`: the one that was used last is used first, so that what is not needed any more grows idle.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from flowherd.isolates.channel import connect
from flowherd.isolates.isolate import Isolate, IsolateRules, Stage
from flowherd.isolates.isolated_attempt import IsolatedAttempt
from flowherd.link.link import LinkClosed
from flowherd.link.messages import NeedIsolate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowherd.execution.executor import Outlet
    from flowherd.ledger import Segment
    from flowherd.link.link import Link
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


def _fails(_: Attempt, __: str) -> bool:
    """Returns False: an attempt without an isolate runs nowhere."""
    return False


class Isolates:
    """The pool and its queue; make it on the worker's loop.

    Args:
        link: to whoever makes isolates; what became of one is told to `started` and `ended`.
        keys: by which they are asked for.
        rules: for all of them.
        limit: isolates at most, those that are leaving not counted; activities beyond it wait in order.
        segment: the worker's: isolates keep there what their attempts spend.

    """

    def __init__(
        self, link: Link, keys: Iterator[int], rules: IsolateRules, limit: int, segment: Segment
    ) -> None:
        self._segment = segment
        self._link = link
        self._keys = keys
        self._rules = rules
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._all: dict[int, Isolate] = {}  # the one that was used last comes last
        self._waiting: deque[IsolatedAttempt] = deque()
        self._is_draining = False

    def __repr__(self) -> str:
        stages = [isolate.stage for isolate in self._all.values()]
        counts = ", ".join(f"{stages.count(stage)} {stage.value}" for stage in Stage if stage in stages)
        return f"<Isolates [{counts or 'none'}; {len(self._waiting)} waiting]>"

    def tell(self, outlet: Outlet, runs_elsewhere: Callable[[Attempt, str], bool] = _fails) -> None:
        """Tells `outlet` what becomes of handlers; called once, before any is started.

        `runs_elsewhere` is called with an attempt for which no isolate can be had, and the reason; it returns True when
        it has started the attempt in another place.
        """
        self._outlet = outlet
        self._runs_elsewhere = runs_elsewhere

    def start(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        """Runs it when there is an isolate for it; until then its limit has not begun."""
        self._waiting.append(IsolatedAttempt(attempt, definition, self._outlet, self._segment))
        self._proceed()

    def stop(self, attempt: Attempt) -> None:
        """Asks the isolate to cancel it; the second time, the isolate is killed."""
        attempt.handle()

    def resize(self, limit: int) -> None:
        """Sets the limit; surplus isolates end when they grow idle."""
        self._limit = limit
        self._proceed()

    def send_draining(self) -> None:
        """The worker drains: handlers may want to know."""
        self._is_draining = True
        for isolate in self._all.values():
            isolate.send_draining()

    def started(self, key: int, pid: int) -> None:
        """The supervisor has made an isolate."""
        if (isolate := self._all.get(key)) is not None:
            isolate.started(pid)

    def ended(self, key: int, status: int, reason: str) -> None:
        """The supervisor has reaped an isolate, or could not make it."""
        if (isolate := self._all.pop(key, None)) is None:
            return
        never_opened = isolate.stage is Stage.OPENING
        isolate.ended(status, reason)
        if never_opened:
            code = "WORKER_OVERLOADED" if reason else "WORKER_CRASHED"
            self._fail_one(code, f"its isolate {isolate.why_not}")
        self._proceed()

    def close(self) -> None:
        """The worker ends: isolates see that, and whatever runs in them is not reported any more."""
        self._waiting.clear()
        for isolate in self._all.values():
            isolate.close()
        self._all.clear()

    def _proceed(self) -> None:
        """Gives work to idle isolates, and asks for as many new ones as are missing."""
        idle = [isolate for isolate in self._all.values() if isolate.stage is Stage.IDLE]
        while self._waiting and idle:
            following = self._waiting.popleft()
            if following.attempt.may_begin and idle[-1].start(following):  # else it was cancelled meanwhile
                idle.pop()
        self._waiting = deque(one for one in self._waiting if one.attempt.may_begin)
        stages = [isolate.stage for isolate in self._all.values()]
        room = self._limit - len(stages) + stages.count(Stage.LEAVING)
        coming = stages.count(Stage.OPENING) + stages.count(Stage.SETTLING)
        for _ in range(min(len(self._waiting) - coming, room)):
            self._make()

    def _make(self) -> None:
        try:
            ends, its_fds = connect()
        except OSError as error:
            self._fail_one("WORKER_OVERLOADED", f"no descriptors for its isolate: {error.strerror}")
            return
        key = next(self._keys)
        isolate = self._all[key] = Isolate(key, ends, self._link, self._rules, self._changed)
        if self._is_draining:
            isolate.send_draining()
        try:
            self._link.send(NeedIsolate(key), its_fds)
        except LinkClosed as error:
            self._loop.call_soon(self.ended, key, 0, f"the supervisor is gone ({error})")
        finally:
            for fd in its_fds:
                os.close(fd)

    def _fail_one(self, code: str, message: str) -> None:
        """The first one that waits does so in vain: otherwise all would, where no isolate can be had."""
        while self._waiting:
            first = self._waiting.popleft()
            if first.attempt.may_begin:
                if not self._runs_elsewhere(first.attempt, message):
                    first.fail(code, message, retryable=True)
                return

    def _changed(self, isolate: Isolate) -> None:
        """It has become idle, or leaves."""
        self._all[isolate.key] = self._all.pop(isolate.key)
        staying = sum(other.stage is not Stage.LEAVING for other in self._all.values())
        if isolate.stage is Stage.IDLE and staying > self._limit:
            isolate.leave()
        else:
            self._proceed()
