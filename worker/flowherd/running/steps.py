"""A handler's coroutine, each step of which is measured; it neither runs by itself nor remembers anything."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextvars import Context
    from types import FrameType

    from flowherd.measuring.measures import LoopSample
    from flowherd.running.stepping import LoopMeter


class Tagged(Protocol):
    """Whose steps are measured.

    Attributes:
        tag: what is stored while one lasts; 0 is nobody.

    """

    tag: int


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that times each of its steps, takes them in one context, and ends as the one within."""

    __slots__ = ("_busy_s", "_longest_s", "_meter", "_name", "_run", "_whose", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Any], meter: LoopMeter, name: str, whose: Tagged, context: Context
    ) -> None:
        self._work = work
        self._meter = meter
        self._name = name
        self._whose = whose
        self._run = context.run
        self._busy_s = 0.0
        self._longest_s = 0.0

    def send(self, value: Any) -> Any:
        """One step."""
        meter = self._meter
        began = meter.enter(self._name, self._whose.tag)
        try:
            waits_for = self._run(self._work.send, value)
        except BaseException:  # StopIteration is how a coroutine ends
            self._took(meter.leave(began))
            meter.ended(self._name, self._busy_s, self._longest_s)
            raise
        self._took(meter.leave(began))
        return waits_for

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception, such as a cancellation."""
        meter = self._meter
        began = meter.enter(self._name, self._whose.tag)
        try:
            waits_for = self._run(self._work.throw, *error)
        except BaseException:
            self._took(meter.leave(began))
            meter.ended(self._name, self._busy_s, self._longest_s)
            raise
        self._took(meter.leave(began))
        return waits_for

    def _took(self, step_s: float) -> None:
        self._busy_s += step_s
        self._longest_s = max(self._longest_s, step_s)

    def close(self) -> None:
        """Ends the work where it stands."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """As the work itself."""
        return self._work.__await__()

    @property
    def cr_frame(self) -> FrameType | None:
        """Where the work stands, for stacks of tasks."""
        return getattr(self._work, "cr_frame", None)


class Sampled(Stepped):
    """A coroutine whose CPU and waits are measured too."""

    __slots__ = ("_sample",)

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        meter: LoopMeter,
        name: str,
        whose: Tagged,
        context: Context,
        sample: LoopSample,
    ) -> None:
        super().__init__(work, meter, name, whose, context)
        self._sample = sample

    def send(self, value: Any) -> Any:
        """One step."""
        return self._step(super().send, value)

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception."""
        return self._step(super().throw, *error)

    def _step(self, step: Callable[..., Any], *value: Any) -> Any:
        sample, meter = self._sample, self._meter
        alone = meter.has_one
        sample.resume(meter.busy_s)
        try:
            waits_for = step(*value)
        except BaseException:  # StopIteration is how a coroutine ends
            sample.pause(meter.busy_s)
            sample.end(alone=alone)
            raise
        sample.pause(meter.busy_s)
        return waits_for
