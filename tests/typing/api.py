"""How users write handlers; checked by type checkers and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

from flowherd import (
    ActivityContext,
    ActivityError,
    ActivityResult,
    CancelReason,
    Registry,
    SyncActivityContext,
    SyncTokenStream,
    TokenStream,
    Usage,
    activity,
)
from flowherd.activities_and_outcomes import Outcome
from flowherd.sdk.activity_definition import ActivityDefinition
from flowherd.testing import FakeEngine, TestedRun, make_activity, run_activity, run_activity_sync


class Order(BaseModel):
    item: str


@activity
async def bare(order: Order) -> dict[str, Any]:
    return {"item": order.item}


@activity()
def plain(ctx: SyncActivityContext, n: int) -> int:
    ctx.heartbeat("ignored", 3)
    assert_type(ctx.download_file("postgres://…"), Path)
    assert_type(ctx.upload_file("out.csv", content_type="text/csv"), str)
    if ctx.cancelled and ctx.cancel_reason is CancelReason.TIMEOUT:
        ctx.raise_if_cancelled()
    assert_type(ctx.wait_for_shutdown(1.0), bool)
    ctx.checkpoint({"done": n})
    assert_type(ctx.resume(), Any)
    with ctx.stream() as stream:
        assert_type(stream, SyncTokenStream)
        stream.send("text")
    return n


@activity(offload="process", max_memory_mb=500)
def isolated(ctx: SyncActivityContext) -> None:
    ctx.raise_if_cancelled()


@activity(name="priced", offload="thread", timeout_s=3, max_concurrent=2, worker="py-ml")
async def optioned(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    await ctx.heartbeat()
    assert_type(await ctx.download_file("postgres://…"), Path)
    assert_type(await ctx.upload_file(Path("out.csv"), "out.csv"), str)
    await ctx.wait_for_shutdown()
    async with ctx.stream() as stream:
        assert_type(stream, TokenStream)
        await stream.send("text")
    ctx.record_usage("anthropic", "model", input_tokens=3, cost_usd=Decimal("0.1"))
    ctx.record_cost(0.5)
    ctx.logger.info("working", extra={"index": ctx.process_index})
    if ctx.cancelled:
        raise ActivityError("no stock", code="OUT_OF_STOCK", retryable=False)
    result = ActivityResult.values({"a": 1}, b=2).with_cost("0.1").with_usage(Usage("p", "m"))
    assert_type(result, ActivityResult)
    return result if params else ActivityResult.error("empty", "EMPTY", retryable=False)


class Greet:
    name = "greet"

    async def execute(self, params: dict[str, Any], ctx: ActivityContext) -> None: ...


@asynccontextmanager
async def pool() -> AsyncIterator[list[str]]:
    yield []


registry = Registry("py-std", lifespan=pool)
assert_type(registry.register(Greet()), ActivityDefinition)
assert_type(registry.lookup("greet"), ActivityDefinition | None)
assert_type(registry.names(), tuple[str, ...])


@registry.activity
async def registered(n: int) -> int:
    return n


@registry.activity(name="other", offload="process")
def registered_too(n: int) -> int:
    return n


async def uses() -> None:
    assert_type(await bare(Order(item="nail")), dict[str, Any])
    assert_type(await registered(1), int)
    assert_type(registered_too(1), int)
    tested = await run_activity(bare, {"item": "nail"}, key="step")
    assert_type(tested, TestedRun)
    assert_type(tested.outcome, Outcome)
    assert_type(tested.output, dict[str, Any])
    assert_type((await run_activity(bare, files={"postgres://…": b""})).files, Mapping[str, bytes])
    FakeEngine().offer(make_activity("bare"))


assert_type(run_activity_sync(plain, {"n": 1}), TestedRun)
plain("text", 1)  # type: ignore[arg-type]  # the decorated function keeps its own types
activity(nane="typo")  # type: ignore[call-overload]  # options are checked
