"""An attempt as its worker's pool of isolates sees it: the messages that begin it and what those that end it say."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from flowherd.activities_and_outcomes import Completed
from flowherd.errors import FileError
from flowherd.execution.invoke import failed
from flowherd.isolates.channel import ChannelBroken
from flowherd.isolates.isolate_protocol import Begin, UsagePlace
from flowherd.ledger.states_and_cells import Cell
from flowherd.sdk.spending import Costs
from flowherd.sdk.usage_bytes import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Failed, Outcome, Usage
    from flowherd.execution.executor import Outlet
    from flowherd.isolates.channel import Buffer, Received
    from flowherd.isolates.isolate_protocol import Ended
    from flowherd.ledger import Segment
    from flowherd.ledger.usage_page import UsagePage
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.worker.attempt import Attempt


@dataclass(frozen=True, slots=True, eq=False)
class IsolatedAttempt:
    """An attempt that an isolate is to run.

    Attributes:
        attempt: whose handler it is.
        definition: of the activity.
        outlet: is told when it begins and that it has ended.
        segment: where the isolate keeps what is spent.

    """

    attempt: Attempt
    definition: ActivityDefinition
    outlet: Outlet
    segment: Segment

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
        self.attempt.costs = SpentInIsolate(self.segment.usage(*place))
        return UsagePlace(self.segment.number, self.segment.get(Cell.STARTED), *place)

    def begin(self, stop: Callable[[], None]) -> bool:
        """The handler is about to begin; `stop` tells it to end. False when it must not begin any more."""
        self.attempt.handle = stop
        has_begun = self.outlet.begin(self.attempt)
        if has_begun:
            self.attempt.environment.meter.enter_isolate()
        return has_begun

    def outcome_of(self, ended: Ended, output: Received) -> Completed | Failed:
        """Takes down what the isolate says of it; ChannelBroken for what cannot be, and then nothing counts."""
        attempt = self.attempt
        costs, failure = _costs_of(ended), ended.failure
        content = _checked_output(output) if failure is None else b""
        attempt.environment.meter.offloaded(
            self.definition.name,
            cpu_s=ended.cpu_s,
            wall_s=ended.wall_s,
            queued_s=ended.queued_s,
            growth_bytes=ended.growth_bytes,
        )
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
            self.attempt.environment.meter.leave_isolate()
        self.outlet.finished(self.attempt, outcome)

    def fail(self, code: str, message: str, *, retryable: bool) -> None:
        """The handler will never begin, and why."""
        self.finish(failed(self.attempt, code, message, retryable=retryable))


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
        raise ChannelBroken(f"it reported what cannot be: {error}") from None
    return costs


def _checked_output(output: Received) -> bytes:
    """An output as it is told to the engine; ChannelBroken when it is no JSON object (faults.md A17)."""
    try:
        raw = msgspec.json.decode(output, type=msgspec.Raw)
        str(output, "utf-8")  # which the line above does not look at within text
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChannelBroken(f"its output is no JSON: {error}") from None
    if bytes(memoryview(raw)[:1]) != b"{":
        raise ChannelBroken("its output is no JSON object")
    return bytes(output)
