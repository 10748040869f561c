"""Adapts apps written for the kruxiaflow SDK, without importing that SDK itself.

The stock worker calls `registry.execute(worker, name, params, ctx, timeout)` and maps the result
(worker/poller.py and worker/registry.py of kruxiaflow 0.4):

    result                      output of its value outputs, with its cost
    result.is_error             its code, message and retryability
    TimeoutError                TIMEOUT, retryable
    any other Exception         EXECUTION_ERROR, retryable, with str(exc)
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from flowherd.errors import ActivityError
from flowherd.sdk.activity_definition import ActivityDefinition, Mode, origin_of
from flowherd.sdk.output import ActivityResult
from flowherd.sdk.plain_json_check import is_plain
from flowherd.sdk.registry import Registry, foreign_kinds
from flowherd.stock_sdk.registries_from_main import registries_of
from flowherd.stock_sdk.stock_context import has_files, make_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from flowherd.sdk.context import ActivityContext

SDK = "kruxiaflow.worker"


def is_imported() -> bool:
    """True when the app has imported the stock SDK's worker."""
    return SDK in sys.modules


def is_activity(candidate: Any) -> bool:
    """True for an activity object of the stock SDK."""
    sdk = sys.modules.get(SDK)
    return sdk is not None and isinstance(candidate, sdk.Activity)


def registry_of(candidate: Any) -> Registry | None:
    """Returns a registry for a registry or an activity of the stock SDK; None for anything else."""
    sdk = sys.modules.get(SDK)
    if sdk is None:
        return None
    if isinstance(candidate, sdk.ActivityRegistry):
        return _from_registry(sdk, candidate)
    if isinstance(candidate, sdk.Activity):
        registry = Registry()
        registry.add(definition_of(candidate))
        return registry
    return None


def definition_of(activity: Any, worker_type: str | None = None) -> ActivityDefinition:
    """Returns the definition of a stock activity."""
    return _definition(sys.modules[SDK], activity.name, worker_type, activity, activity.execute)


def hand_over(main: Callable[..., Any]) -> Registry | None:
    """Returns all activities that a stock `main` registers with the managers it starts; None when it starts none."""
    sdk = sys.modules[SDK]
    stocks = registries_of(main, sdk)
    registry = Registry()
    for stock in stocks:
        for definition in _from_registry(sdk, stock):
            registry.add(definition)
    return registry if stocks else None


def _from_registry(sdk: ModuleType, stock: Any) -> Registry:
    registry = Registry()
    for key in stock.activity_types():
        worker_type, _, name = key.partition(".")
        activity = stock.get(worker_type, name)
        if type(stock).execute is sdk.ActivityRegistry.execute:
            execute = activity.execute
        else:
            execute = _through_registry(stock, worker_type, name)
        registry.add(_definition(sdk, name, worker_type, activity, execute))
    return registry


def _through_registry(stock: Any, worker_type: str, name: str) -> Callable[[Any, Any], Any]:
    """Returns a function that calls the registry's own `execute`, which a subclass may have overridden."""

    async def execute(params: Any, ctx: Any) -> Any:
        return await stock.execute(worker=worker_type, name=name, params=params, ctx=ctx, timeout=ctx.limit_s)

    return execute


def _definition(
    sdk: ModuleType, name: str, worker_type: str | None, activity: Any, execute: Callable[[Any, Any], Any]
) -> ActivityDefinition:
    async def call(params: Any, ctx: ActivityContext) -> ActivityResult | dict[str, Any]:
        stock_ctx = make_context(sdk, ctx)
        try:
            return _result(sdk, await execute(params, stock_ctx))
        except (TimeoutError, sdk.ActivityTimeoutError) as exc:
            raise ActivityError(str(exc) or "the activity timed out", code="TIMEOUT", retryable=True) from exc
        finally:
            if has_files(stock_ctx):
                await stock_ctx.close_files()

    return ActivityDefinition(
        name=name,
        handler=call,
        mode=Mode.LOOP,
        worker_type=worker_type,
        is_async=True,
        origin=origin_of(activity.execute),
    )


def _result(sdk: ModuleType, stock: Any) -> ActivityResult | dict[str, Any]:
    """Converts a stock result, to a dict if it has only outputs; AttributeError for anything else, as in that SDK."""
    if _is_error(sdk, stock):
        message = stock.error_message or "Unknown error"
        return ActivityResult.error(message, stock.error_code or "EXECUTION_ERROR", retryable=stock.retryable)
    output = _as_json(stock.to_output_dict())
    return output if stock.cost_usd is None else ActivityResult(output).with_cost(stock.cost_usd)


def _is_error(sdk: ModuleType, stock: Any) -> bool:
    """Returns `stock.is_error`; reads the plain class's private attribute, which is faster than its property."""
    if type(stock) is sdk.ActivityResult:
        return bool(stock.__pydantic_private__["_is_error"])
    return bool(stock.is_error)


def _as_json(output: dict[str, Any]) -> dict[str, Any]:
    """Returns the value as `json.dumps` in the stock client would write it, for example with numeric keys as text.

    So an unchanged app may still return a NumPy float, which is a float to json. Returns other values unchanged.
    """
    if is_plain(output):
        return output
    try:
        plain = json.loads(json.dumps(output, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return output
    return plain if isinstance(plain, dict) else output


foreign_kinds.append(sys.modules[__name__])  # the module has both functions of the protocol
