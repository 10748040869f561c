"""Calls one handler once: binds its parameters, runs it and returns the outcome."""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from flowherd.activities_and_outcomes import Completed, Failed, Raised, Result
from flowherd.end_forked_copies import leave_if_copied
from flowherd.errors import ActivityError, InvalidOutput
from flowherd.link.bounded_messages import sendable
from flowherd.own_tasks import cause_of_cancel
from flowherd.sdk.context import ActivityContext, RunState, SyncActivityContext
from flowherd.sdk.error_texts import clean_message, describe_exception, trace_of
from flowherd.sdk.output import ActivityResult, encode_output
from flowherd.sdk.redaction import hiding

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.sdk.context import BaseContext

MAX_CODE_CHARS = 100
MAX_UNTAKEN = 20  # unused parameters named in the log for one activity

_log = logging.getLogger(__name__)

_HINTS = {
    "asyncio.run() cannot be called from a running event loop": 'await it, or use offload="thread"',
    "this event loop is already running": 'await it, or use offload="thread"',
    "attached to a different loop": "make clients and locks inside a handler that runs in a thread",
    "is bound to a different event loop": "make clients and locks inside a handler that runs in a thread",
}


async def invoke_async(definition: ActivityDefinition, state: RunState) -> Result:
    """Awaits the handler on the running loop and returns its outcome; never raises (faults.md A3, A4)."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        if state.cancel_reason is not None:
            return stopped(state, "it had not begun")
        arguments, keywords = _bound(definition, state, ActivityContext(state))
        value = definition.handler(*arguments, **keywords)
        if isinstance(value, CoroutineType) or inspect.isawaitable(
            value
        ):  # a decorator may return something other than a coroutine
            value = await value
        return outcome_of(value, state)
    except BaseException as exc:  # noqa: BLE001  # SystemExit and the like are failures of the handler only
        return failure_of(exc, state, arguments, keywords)
    finally:
        leave_if_copied()


def invoke_sync(definition: ActivityDefinition, state: RunState) -> Result:
    """Calls a plain handler in the calling thread and returns its outcome; never raises."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        if state.cancel_reason is not None:
            return stopped(state, "it had not begun")
        arguments, keywords = _bound(definition, state, SyncActivityContext(state))
        value = definition.handler(*arguments, **keywords)
        if inspect.iscoroutine(value):  # an async def behind a plain decorator
            value = asyncio.run(value)
        return outcome_of(value, state)
    except BaseException as exc:  # noqa: BLE001  # SystemExit and the like are failures of the handler only
        return failure_of(exc, state, arguments, keywords)
    finally:
        leave_if_copied()


def _bound(
    definition: ActivityDefinition, state: RunState, context: BaseContext
) -> tuple[list[Any], dict[str, Any]]:
    binding, activity = definition.binding, state.activity
    bound = binding.bind(activity.parameters, context)
    if untaken := binding.untaken(activity.parameters):
        named = state.environment.untaken.setdefault(activity.name, set())
        fresh = [name[:64] for name in untaken if name[:64] not in named][: MAX_UNTAKEN - len(named)]
        if fresh:
            named.update(fresh)
            _log.warning("parameters_not_taken", extra={**state.ids, "parameters": fresh})
    return bound


class ThreadLoop:
    """Runs an async handler on a loop of its own in this thread; it can be stopped from another thread."""

    __slots__ = ("_loop", "_task")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Result] | None = None

    def run(self, definition: ActivityDefinition, state: RunState) -> Result:
        """Runs the handler to its end and returns its outcome; never raises."""
        try:
            return asyncio.run(self._invoke(definition, state))
        except BaseException as exc:  # noqa: BLE001  # a task that the handler left behind may end the loop
            return failure_of(exc, state)

    def stop(self) -> None:
        """Cancels the handler; callable from any thread, without effect before its start or after its end."""
        if self._loop is not None and self._task is not None:
            try:
                self._loop.call_soon_threadsafe(self._task.cancel)
            except RuntimeError:
                _log.debug("handler_ended_before_it_was_cancelled")

    async def _invoke(self, definition: ActivityDefinition, state: RunState) -> Result:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        return await invoke_async(definition, state)


def outcome_of(value: Any, state: RunState) -> Result:
    """Returns the outcome for a handler's return value; raises InvalidOutput."""
    if not isinstance(value, ActivityResult):
        return Completed(encode_output(value), *state.spent)
    _take_costs(value, state)
    if value.failure is None:
        return Completed(encode_output(value), *state.spent)
    code, message, retryable = value.failure
    return failed(state, code, hiding(state)(str(message)), retryable=bool(retryable))


def failure_of(exc: BaseException, state: RunState, *arguments: Any) -> Result:
    """Returns the outcome for an exception of a handler."""
    try:
        return _failure_of(exc, state, hiding(state, *arguments))
    except BaseException:  # noqa: BLE001  # the exception's own methods may raise
        return failed(
            state, "EXECUTION_ERROR", f"{type(exc).__name__} that cannot be described", retryable=True
        )


def _failure_of(exc: BaseException, state: RunState, hide: Callable[[str], str]) -> Result:
    message, trace = describe_exception(exc, hide), trace_of(exc, hide)
    at = sendable(trace.at)
    if state.cancel_reason is not None:
        return stopped(state, message, at)
    kind = type(exc).__qualname__
    raised = Raised(*map(sendable, (kind, message, trace.text if at else "", trace.distinct)))
    if isinstance(exc, ActivityError):
        return failed(state, exc.code, message, retryable=bool(exc.retryable), raised=raised, at=at)
    if isinstance(exc, asyncio.CancelledError):
        if cause := cause_of_cancel(state.who):
            return failed(state, "TASK_CANCELLED", cause, retryable=True, at=at)
        message = "the handler raised CancelledError although nobody had cancelled it"
    elif isinstance(exc, RuntimeError):
        message += next((f" ({remedy})" for words, remedy in _HINTS.items() if words in message), "")
    return failed(state, "EXECUTION_ERROR", message, retryable=True, raised=raised, at=at)


def stopped(state: RunState, detail: str, at: str = "") -> Failed:
    """Returns the outcome of a cancelled attempt; the worker replaces it with one for the reason."""
    return failed(state, "CANCELLED", detail, retryable=True, at=at)


def deliver(loop: asyncio.AbstractEventLoop, end: Callable[[Result], None], outcome: Result) -> None:
    """Passes an outcome from a thread to the loop, which may be closed by now."""
    try:
        loop.call_soon_threadsafe(end, outcome)
    except RuntimeError:
        _log.debug("handler_ended_after_its_worker")


def failed(
    state: RunState,
    code: Any,
    message: str,
    *,
    retryable: bool,
    raised: Raised | None = None,
    at: str = "",
) -> Failed:
    """Returns a failure with a cleaned message and the usage so far."""
    return Failed(_code(code), clean_message(message), retryable, *state.spent, raised, at)


def _code(code: Any) -> str:
    return (
        clean_message(code)[:MAX_CODE_CHARS] if isinstance(code, str) and code.strip() else "ACTIVITY_ERROR"
    )


def _take_costs(result: ActivityResult, state: RunState) -> None:
    if result.cost_usd is None and not result.usage:
        return
    costs = state.open_costs()
    try:
        if result.cost_usd is not None:
            costs.add_cost(result.cost_usd)
        for usage in result.usage:
            costs.add_usage(usage)
    except (ValueError, TypeError, AttributeError) as exc:
        raise InvalidOutput(f"cost or usage of the result: {describe_exception(exc)}") from exc
