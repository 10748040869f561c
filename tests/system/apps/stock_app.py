"""A worker as users of the kruxiaflow SDK write it (`python stock_app.py`); it must not know flowherd."""

from __future__ import annotations

import asyncio
import logging
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

from kruxiaflow.worker import (
    Activity,
    ActivityContext,
    ActivityOutput,
    ActivityRegistry,
    ActivityResult,
    OutputType,
    WorkerConfig,
    WorkerManager,
    activity,
)


@activity()
async def compute(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Computes without yielding to the loop, as most users' handlers do."""
    total = sum(number * number for number in range(params["n"]))
    return ActivityResult.value("total", total)


@activity(name="renamed")
async def under_another_name(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Returns its parameters."""
    return ActivityResult.value("params", params)


@activity()
async def several(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Returns outputs of all three types; the stock worker reports only the values."""
    outputs = [
        ActivityOutput(name="text", output_type=OutputType.VALUE, value="ein Ü und ein 🐑"),
        ActivityOutput(
            name="nested", output_type=OutputType.VALUE, value={"a": [1, 2.5, None, True], "b": {}}
        ),
        ActivityOutput(name="report", output_type=OutputType.FILE, value="postgres://somewhere"),
        ActivityOutput(name="folder", output_type=OutputType.FOLDER, value="postgres://elsewhere"),
    ]
    return ActivityResult.values(outputs)


@activity()
async def nothing(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Returns a result without outputs."""
    return ActivityResult()


@activity()
async def priced(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Costs money; metadata stays in the worker."""
    return (
        ActivityResult.value("answer", 42).with_cost(Decimal(params["usd"])).with_metadata({"model": "none"})
    )


@activity()
async def number_keys(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Returns keys that only `json.dumps` converts to text."""
    return ActivityResult.value("by_number", {1: "one", 2.5: "two and a half", False: "no", None: "nothing"})


@activity()
async def refuses(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Fails as the SDK wants it."""
    return ActivityResult.error("no such customer", code="NOT_FOUND", retryable=params["retryable"])


@activity()
async def fails_with_defaults(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Fails with the SDK's own code, and retryable."""
    return ActivityResult.error("something went wrong")


@activity()
async def raises(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Raises the exception given by its parameters."""
    kinds: dict[str, Exception] = {
        "value": ValueError("a bad value: ü"),
        "key": KeyError("missing"),
        "os": FileNotFoundError(2, "No such file or directory", "gone.txt"),
        "group": ExceptionGroup("two at once", [ValueError("one"), TypeError("two")]),
    }
    raise kinds[params["kind"]]


@activity()
async def fails_once(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Fails in its first attempt and succeeds in the second, wherever that runs."""
    mark = Path(params["folder"]) / str(ctx.activity_id)
    if not mark.exists():
        mark.touch()
        raise ConnectionError("try again")
    return ActivityResult.value("attempts", 2)


@activity()
async def too_slow(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Takes longer than its `timeout_seconds`."""
    await asyncio.sleep(60)  # longer than the limit it is to run into
    return ActivityResult()


@activity()
async def returns_a_dict(params: dict[str, Any], ctx: ActivityContext) -> Any:
    """Returns what the SDK does not take."""
    return {"not": "a result"}


@activity()
async def identify(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Returns its context with the types that the SDK documents."""
    seen = {
        "is_stock": isinstance(ctx, ActivityContext),
        "types": [
            type(ctx.workflow_id).__name__,
            type(ctx.activity_id).__name__,
            type(ctx.activity_key).__name__,
        ],
        "workflow_id": str(ctx.workflow_id),
        "key": ctx.activity_key,
        "signal": ctx.signal,
        "logger": ctx.logger.name,
        "fields": sorted(ctx.model_dump()),
    }
    return ActivityResult.value("context", seen)


@activity()
async def beats_and_logs(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Sends heartbeats by hand and logs."""
    for step in range(20):
        await ctx.heartbeat()
        ctx.logger.info("step %d of %s", step, params["word"])
    return ActivityResult.value("steps", 20)


@activity()
async def make_file(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Uploads a file under two names."""
    local = Path(params["folder"]) / f"{ctx.activity_id}.bin"
    local.write_bytes(bytes(range(256)) * params["times"])
    first = await ctx.upload_file(str(local), "bytes.bin")
    second = await ctx.upload_file(str(local), params["second"])
    return ActivityResult.values(
        [
            ActivityOutput(name=n, output_type=OutputType.VALUE, value=v)
            for n, v in [("a", first), ("b", second)]
        ]
    )


@activity()
async def reverse_file(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Downloads a file of another activity and uploads it reversed."""
    local = Path(await ctx.download_file(params["file"]))
    content = local.read_bytes()[::-1]  # noqa: ASYNC240  # as users do
    turned = local.with_suffix(".reversed")
    turned.write_bytes(content)
    reference = await ctx.upload_file(str(turned), "reversed.bin")
    return ActivityResult.value("file", {"reference": reference, "was": local.name, "bytes": len(content)})


@activity()
async def miss_a_file(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Uploads a missing file."""
    return ActivityResult.value("file", await ctx.upload_file("/nonexistent/file", "x"))


class Scale(Activity):
    """Class style: configured by its constructor, with state that lives as long as its process."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._calls = 0

    @property
    def name(self) -> str:
        """The name in workflow definitions."""
        return "scale"

    async def execute(self, params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
        """Multiplies, and counts its calls."""
        self._calls += 1
        if params.get("count"):
            return ActivityResult.value("state", {"pid": os.getpid(), "calls": self._calls})
        return ActivityResult.value("scaled", params["x"] * self._factor)


async def main() -> None:
    """Builds the registry and runs the worker; this is how every example of the SDK ends."""
    logging.basicConfig(level=logging.INFO)
    config = WorkerConfig()  # type: ignore[call-arg]  # fills itself from the environment
    registry = ActivityRegistry()
    for found in list(globals().values()):
        if isinstance(found, Activity):
            registry.register(found, config.worker)
    registry.register(Scale(7), config.worker)
    await WorkerManager(config, registry).run_until_shutdown()


if __name__ == "__main__":
    asyncio.run(main())
