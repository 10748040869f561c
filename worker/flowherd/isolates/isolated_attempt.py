"""An attempt as its worker's pool of isolates sees it: the messages that begin it and what those that end it say."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from flowherd.activities_and_outcomes import Completed
from flowherd.errors import FileError
from flowherd.execution.invoke import failed
from flowherd.isolates.frames import FrameError
from flowherd.isolates.isolate_protocol import Begin, UsagePlace
from flowherd.ledger.states_and_cells import Cell
from flowherd.sdk.spending import Costs
from flowherd.sdk.usage_bytes import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Failed, Outcome, Usage
    from flowherd.execution.executor import Outlet
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.isolates.frames import Buffer
    from flowherd.isolates.isolate_protocol import Ended
    from flowherd.ledger import Segment
    from flowherd.ledger.usage_page import UsagePage
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


class IsolatedAttempt:
    """An attempt that an isolate is to run.

    Args:
        attempt: whose handler it is.
        definition: of the activity.
        meter: knows how many handlers there are.
        outlet: is told when it begins and that it has ended.
        segment: where the isolate keeps what is spent.

    """

    def __init__(
        self,
        attempt: Attempt,
        definition: ActivityDefinition,
        meter: LoopMeter,
        outlet: Outlet,
        segment: Segment,
    ) -> None:
        self.attempt = attempt
        self.definition = definition
        self._meter = meter
        self._outlet = outlet
        self._segment = segment

    def __repr__(self) -> str:
        return f"<IsolatedAttempt {self.attempt!r}>"

    def order(self, mark: str) -> tuple[Begin, Buffer]:
        """The message that begins it, and its parameters: where they came undecoded, as the engine sent them."""
        activity, trace = self.attempt.activity, self.attempt.trace
        begin = Begin(
            msgspec.structs.replace(activity, parameters=None),
            self.attempt.limit_s,
            mark,
            self._usage_place(),
            self._folder(),
            self.attempt.ids["seen"],
            {} if trace is None else dict(trace.carrier()),
        )
        if isinstance(activity.parameters, msgspec.Raw):
            return begin, memoryview(activity.parameters)
        return begin, msgspec.json.encode(activity.parameters)

    def _folder(self) -> str:
        """The folder for the isolate's files; it says so itself when there is no room for any."""
        files = self.attempt.environment.files
        if files is not None:
            with suppress(FileError):
                return str(files.folder_for(self.attempt))
        return ""

    def _usage_place(self) -> UsagePlace:
        place = self.attempt.usage_place
        self.attempt.costs = SpentInIsolate(self._segment.usage(*place))
        return UsagePlace(self._segment.number, self._segment.get(Cell.STARTED), *place)

    def begin(self, stop: Callable[[], None]) -> bool:
        """The handler is about to begin; `stop` tells it to end. False when it must not begin any more."""
        self.attempt.handle = stop
        has_begun = self._outlet.begin(self.attempt)
        if has_begun:
            self._meter.enter_isolate()
        return has_begun

    def outcome_of(self, ended: Ended, output: bytearray) -> Completed | Failed:
        """Takes down what the isolate says of the attempt; FrameError for what cannot be, and then nothing counts."""
        attempt = self.attempt
        costs, failure = _costs_of(ended), ended.failure
        content = _checked_output(output) if failure is None else b""
        try:
            attempt.environment.meter.offloaded(
                self.definition.name,
                cpu_s=ended.cpu_s,
                wall_s=ended.wall_s,
                growth_bytes=ended.growth_bytes,
            )
        except ValueError as error:
            raise FrameError(f"it reported what cannot be: {error}") from None
        attempt.costs = costs
        if failure is None:
            return Completed(content, *attempt.spent)
        return failed(
            attempt,
            failure.code,
            failure.message,
            retryable=failure.retryable,
            raised=failure.raised,
            at=failure.at,
        )

    def finish(self, outcome: Outcome) -> None:
        """The handler has ended, or will never begin."""
        if self.attempt.begun_at:
            self._meter.leave_isolate()
        self._outlet.finished(self.attempt, outcome)


class SpentInIsolate(Costs):
    """The sums of an attempt so far: its isolate adds up, and this reads what that has kept.

    Args:
        page: of the attempt.

    """

    __slots__ = ("_page",)

    def __init__(self, page: UsagePage) -> None:
        super().__init__()
        self._page = page

    @property
    def cost_usd(self) -> str | None:
        """See `Costs.cost_usd`."""
        return self._kept()[0]

    @property
    def usage(self) -> tuple[Usage, ...]:
        """See `Costs.usage`."""
        return self._kept()[1]

    def _kept(self) -> tuple[str | None, tuple[Usage, ...]]:
        sums = self._page.read()
        return (None, ()) if sums is None else unpack(sums)


def _costs_of(ended: Ended) -> Costs:
    """The sums that an isolate reports, once more checked: the engine would refuse the whole report."""
    costs = Costs()
    try:
        if ended.cost_usd is not None:
            costs.add_cost(Decimal(ended.cost_usd))
        for entry in ended.usage:
            costs.add_usage(entry)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise FrameError(f"it reported what cannot be: {error}") from None
    return costs


def _checked_output(output: bytearray) -> bytes:
    """An output as it is told to the engine; FrameError when it is no JSON object (faults.md A17)."""
    try:
        raw = msgspec.json.decode(output, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FrameError(f"its output is no JSON: {error}") from None
    if bytes(memoryview(raw)[:1]) != b"{":
        raise FrameError("its output is no JSON object")
    return bytes(output)
