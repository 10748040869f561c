"""Handlers for each place where one can run; all of them run the same cases, by name."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import logging
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hostile_code import Hostile, Unsayable
from kruxiaflow.worker import ActivityContext as StockContext
from kruxiaflow.worker import ActivityResult as StockResult
from kruxiaflow.worker import activity as stock_activity
from pydantic import BaseModel, SecretStr

from flowherd import ActivityError, ActivityResult, Registry, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

registry = Registry()
CASES: dict[str, Callable[[Any], Any]] = {}


def case(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Registers a case: something that a handler does with its context."""
    CASES[function.__name__] = function
    return function


class Model(BaseModel):
    """An output."""

    name: str
    secret: SecretStr = SecretStr("deep")


@dataclasses.dataclass
class Row:
    """An output."""

    key: str
    at: dt.datetime


def raising(name: str, make: Callable[[], BaseException]) -> None:
    """Registers a case that raises."""

    def raises(_: Any) -> None:
        raise make()

    CASES[name] = raises


class WithoutWords(BaseException):
    """Has no message."""


def noted() -> BaseException:
    error = ValueError("outer")
    error.add_note("a note\nof two lines")
    error.__cause__ = KeyError("inner")
    error.__cause__.__context__ = OSError(2, "No such file", "x")
    return error


def in_a_circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    return first


for made in (
    ("system exit", lambda: SystemExit("3")),
    ("system exit of a number", lambda: SystemExit(3)),
    ("keyboard interrupt", lambda: KeyboardInterrupt("ctrl")),
    ("generator exit", lambda: GeneratorExit("g")),
    ("stop iteration", lambda: StopIteration("value")),
    ("stop async iteration", lambda: StopAsyncIteration("value")),
    ("cancelled", lambda: asyncio.CancelledError("by nobody")),
    ("timeout", TimeoutError),
    ("base exception", lambda: BaseException("base")),
    ("without words", WithoutWords),
    ("unsayable", lambda: Unsayable("x")),
    ("hostile argument", lambda: ValueError(Hostile())),
    ("surrogates", lambda: ValueError("half \ud800 and \udfff")),
    ("nul", lambda: ValueError("a\0b")),
    ("long", lambda: ValueError("é" * 20_000)),
    ("memory", MemoryError),
    ("os error", lambda: OSError(28, "No space left on device", "/x")),
    ("unicode", lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")),
    ("cause and notes", noted),
    ("circle", in_a_circle),
    (
        "group",
        lambda: ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])]),
    ),
    ("base group", lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("one")])),
    ("activity error", lambda: ActivityError("told", code="MINE", retryable=False)),
    ("odd activity error", lambda: ActivityError("told \ud800", code="\ud800" * 300, retryable=Hostile())),
    ("a secret", lambda: ValueError("refused hunter22")),
):
    raising(*made)


@case
def recursion(ctx: Any) -> Any:
    return recursion(ctx)


@case
def raised_from(_: Any) -> None:
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("no luck") from error


for name, value in {
    "nothing": None,
    "object": {"a": 1, "b": [1.5, None, True, "é\u2028"]},
    "text": "words",
    "list": [1, [2, [3]]],
    "number": Decimal("1.10"),
    "large number": 2**70,
    "not a number": float("nan"),
    "set": {1, 2},
    "bytes": b"\xff",
    "odd keys": {1: 2, None: 3},
    "half a surrogate pair": "\ud800",
    "nul inside": {"a": "\0"},
    "model": Model(name="n"),
    "dataclass": Row("k", dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
    "uuid and path": [UUID(int=5), Path("a/b")],
    "hostile": Hostile(),
    "long output": "y" * 300_000,
    "result": ActivityResult.value("done", 1).with_cost("0.50").with_usage(Usage("p", "m", input_tokens=2)),
    "result with a bad cost": ActivityResult.value("done", 1).with_cost(-1),
    "error result": ActivityResult.error("went wrong", "MINE"),
}.items():
    CASES[name] = lambda _, value=value: value


@case
def circle_of_lists(_: Any) -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@case
def depth(_: Any) -> Any:
    value: Any = 1
    for _ in range(2000):
        value = [value]
    return value


@case
def money(ctx: Any) -> str:
    ctx.record_cost("0.10")
    ctx.record_cost(Decimal("0.2"))
    for number in range(60):
        ctx.record_usage("provider", f"model {number % 40}", input_tokens=number, cost_usd="0.000001")
    ctx.record_usage("provider", "unpriced", output_tokens=2**32 - 1)
    ctx.record_usage("provider", "unpriced", output_tokens=5, cache_storage_token_hours=0.25)
    return "spent"


@case
def money_and_an_error(ctx: Any) -> None:
    ctx.record_usage("p", "m", input_tokens=3, cost_usd="0.5")
    raise ActivityError("after it was spent", code="LATE")


@case
def bad_money(ctx: Any) -> None:
    ctx.record_usage("p", "m", input_tokens=-1)


@case
def logs(ctx: Any) -> None:
    ctx.logger.debug("quiet %d", 1)
    ctx.logger.info("with fields", extra={"shelf": "B", "rows": [1, {"a": None}]})
    ctx.logger.warning("a password: %s", "hunter22")
    logging.getLogger("their.own").error("theirs %s", "too")
    try:
        {}["key"]
    except KeyError:
        ctx.logger.exception("caught")


@case
def context(ctx: Any) -> dict[str, Any]:
    return {
        "ids": [ctx.activity_id, ctx.workflow_id, ctx.activity_key, ctx.activity_name, ctx.worker],
        "key": ctx.idempotency_key,
        "signal": ctx.signal,
        "settings": dict(ctx.settings),
        "limit_s": ctx.limit_s,
        "process": ctx.process_index,
        "cancelled": [ctx.cancelled, ctx.cancel_reason, ctx.shutdown_requested],
    }


async def files_async(ctx: Any, reference: str) -> dict[str, Any]:
    """Downloads, uploads and reports progress."""
    path = await ctx.download_file(reference)
    made = path.with_name("made")
    made.write_text(path.read_text().upper())
    before = await ctx.resume()
    await ctx.checkpoint({"step": 1})
    sent = await ctx.upload_file(made, "upper.txt", "text/plain")
    return {"text": path.read_text(), "sent": sent, "before": before, "after": await ctx.resume()}


def files_sync(ctx: Any, reference: str) -> dict[str, Any]:
    """The same, blocking."""
    path = ctx.download_file(reference)
    made = path.with_name("made")
    made.write_text(path.read_text().upper())
    before = ctx.resume()
    ctx.checkpoint({"step": 1})
    sent = ctx.upload_file(made, "upper.txt", "text/plain")
    return {"text": path.read_text(), "sent": sent, "before": before, "after": ctx.resume()}


async def missing_async(ctx: Any, reference: str) -> None:
    """A file that is not there."""
    await ctx.download_file(reference)


def missing_sync(ctx: Any, reference: str) -> None:
    """The same, blocking."""
    ctx.download_file(reference)


async def stream_async(ctx: Any, then: str = "") -> None:
    """Text, and how it ended."""
    async with ctx.stream() as out:
        await out.send("one ")
        await out.send("two \ud800")
        if then:
            raise ValueError(f"{then} hunter22")


def stream_sync(ctx: Any, then: str = "") -> None:
    """The same, blocking."""
    with ctx.stream() as out:
        out.send("one ")
        out.send("two \ud800")
        if then:
            raise ValueError(f"{then} hunter22")


async def stopped_async(ctx: Any, mark: str) -> str:
    """Spends, waits until it is stopped, and says why; what it returns is dropped."""
    ctx.record_cost("0.25")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(mark).write_text(str(ctx.cancel_reason))  # noqa: ASYNC240 - it has been stopped
        raise
    return "never"


def stopped_sync(ctx: Any, mark: str) -> str:
    """The same, in turns: a thread cannot be interrupted."""
    ctx.record_cost("0.25")
    try:
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        ctx.raise_if_cancelled()
    except BaseException:
        Path(mark).write_text(str(ctx.cancel_reason))
        raise
    return "never"


async def do_async(ctx: Any, case: str, password: str = "hunter22") -> Any:
    """A case in an `async def`."""
    del password
    await asyncio.sleep(0)
    return CASES[case](ctx)


def do_sync(ctx: Any, case: str, password: str = "hunter22") -> Any:
    """A case in a `def`."""
    del password
    return CASES[case](ctx)


ASYNC = {
    "do": do_async, "files": files_async, "missing": missing_async, "stream": stream_async, "stopped": stopped_async,
}  # fmt: skip
SYNC = {
    "do": do_sync,
    "files": files_sync,
    "missing": missing_sync,
    "stream": stream_sync,
    "stopped": stopped_sync,
}
ASYNC_PLACES = ("loop", "thread", "process")
SYNC_PLACES = ("thread", "process")

for name, handler in ASYNC.items():
    for place in ASYNC_PLACES:
        registry.activity(name=f"async {name} {place}", offload=place)(handler)
for name, handler in SYNC.items():
    for place in SYNC_PLACES:
        registry.activity(name=f"def {name} {place}", offload=place)(handler)


async def stock_files(params: dict[str, Any], ctx: StockContext) -> StockResult:
    """A handler of the stock SDK: down, up, and where there is no file."""
    path = Path(await ctx.download_file(f"postgres://{params['reference']}"))
    made = path.with_name("made")
    made.write_text(path.read_text().upper())  # noqa: ASYNC240 - as handlers do
    sent = await ctx.upload_file(str(made), "stock.txt")
    try:
        await ctx.download_file(f"postgres://{params['reference']}-not-there")
    except Exception as error:  # noqa: BLE001 - it is the SDK's own
        return StockResult.value("files", [sent, path.name, type(error).__name__, str(error)])
    raise AssertionError("there is no such file")


for place in ASYNC_PLACES:
    registry.register(stock_activity(name=f"stock files {place}")(stock_files))
