"""Handlers of every temper, for isolates; what they do is for the tests that call them."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowherd import ActivityError, ActivityResult, Registry, Usage
from flowherd.isolates.channel import Channel
from flowherd.sdk.context import SyncActivityContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def lifespan() -> AsyncIterator[dict[str, Any]]:
    yield {"made_by": os.getpid()}
    mark = os.environ.get("LIFESPAN_MARK")
    if mark:
        Path(mark).write_text("left")  # noqa: ASYNC240 - the process ends


registry = Registry(lifespan=lifespan)
isolated = registry.activity(offload="process")


@registry.activity(name="echo_async")
async def echo_on_loop(params: dict) -> Any:
    return params["value"]


@registry.activity(name="echo_thread")
def echo_in_thread(params: dict) -> Any:
    return params["value"]


@isolated
async def echo_isolated_async(params: dict) -> Any:
    return params["value"]


@isolated
def echo_isolated(params: dict) -> Any:
    return params["value"]


@isolated
async def interfere(how: str) -> str:
    loop = asyncio.get_running_loop()
    if how == "stop":
        loop.stop()
    else:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    await asyncio.sleep(0.05)
    return "still here"


@isolated
def stop_a_loop_that_does_not_run() -> str:
    asyncio.get_event_loop_policy().get_event_loop().stop()
    return "still here"


@isolated
def whoami(ctx) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "process": ctx.process_index,
        "state": ctx.state,
        "id": ctx.activity_id,
        "limit_s": ctx.limit_s,
        "key": ctx.activity_key,
        "settings": dict(ctx.settings),
        "signal": ctx.signal,
        "environment": {
            name: os.environ.get(name) for name in ("FLOWHERD_PROCESS_INDEX", "FLOWHERD_PROCESSES")
        },
        "secrets": [name for name in os.environ if "SECRET" in name],
    }


@isolated
def length(params: dict) -> int:
    return len(params["text"])


@isolated
def large(size: int) -> dict[str, str]:
    return {"text": "x" * size}


@isolated
def spend(ctx, then: str = "") -> ActivityResult:
    ctx.record_usage("p", "m", input_tokens=3, cost_usd="0.5")
    ctx.record_cost("0.25")
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "raise":
        raise ActivityError("no more", code="BROKE", retryable=False)
    return ActivityResult.value("done", then).with_cost("1").with_usage(Usage("p", "n", output_tokens=2))


@isolated
def speak(ctx) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("half a line")
    ctx.logger.warning("logged %d", 7, extra={"shelf": "B", "odd": {1, 2}.__class__})


@isolated
def flood(lines: int) -> None:
    for number in range(lines):
        print("x" * 100, number)


@isolated
async def flood_long(size: int) -> None:
    sys.stdout.write("y" * size)


def channel() -> socket.socket:
    """The isolate's socket to its worker, which is no handler's business."""
    return next(found._sock for found in gc.get_objects() if isinstance(found, Channel))


@isolated
def end(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "segv":
        ctypes.string_at(0)
    if how == "hang up":
        channel().shutdown(socket.SHUT_WR)
        threading.Event().wait(60)
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how]
    os.kill(os.getpid(), number)


@isolated
def garbage(data: list[int]) -> None:
    channel().send(bytes(data))
    threading.Event().wait(60)


@isolated
async def wait_async(ctx, mark: str = "") -> None:
    try:
        ctx.logger.warning("begun")
        await asyncio.Event().wait()  # until it is cancelled
    except asyncio.CancelledError:
        if mark:
            Path(mark).write_text(f"{ctx.cancelled} {ctx.cancel_reason.value}")  # noqa: ASYNC240
        raise


@isolated
def wait_sync(ctx, mark: str = "", stubborn: int = 0) -> None:
    while True:
        try:  # around the word, too: whoever hears it may strike at once
            ctx.logger.warning("begun")
            for _ in range(600):
                threading.Event().wait(0.1)
        except asyncio.CancelledError as error:
            if mark:
                Path(mark).write_text(f"{type(error).__name__} {ctx.cancel_reason.value}")
            if not stubborn:
                raise


@isolated
def sleep_beside_a_program(mark: str) -> None:
    Path(mark).write_text(str(subprocess.Popen(["sleep", "60"]).pid))
    time.sleep(60)


@isolated
def compute(ctx) -> None:
    ctx.logger.warning("begun")
    while True:
        pass


@isolated
def compute_for(cpu_s: float) -> None:
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
    time.sleep(cpu_s)


@isolated
def drained(ctx) -> dict[str, bool]:
    ctx.logger.warning("begun")
    before = ctx.shutdown_requested
    return {"before": before, "told": ctx.wait_for_shutdown(20)}


@isolated
async def files(ctx, reference: str) -> dict[str, str]:
    path = await ctx.download_file(reference)
    text = path.read_text()
    own = path.with_name("made")
    own.write_text(text.upper())
    return {"text": text, "reference": await ctx.upload_file(own, "upper.txt")}


@isolated
async def remember(ctx) -> dict[str, Any]:
    before = await ctx.resume()
    await ctx.checkpoint({"step": (before or {"step": 0})["step"] + 1})
    return {"before": before, "after": await ctx.resume()}


@isolated
def files_sync(ctx, reference: str) -> dict[str, str]:
    path = ctx.download_file(reference)
    return {"text": path.read_text(), "folder": str(path.parent.parent)}


@isolated
async def files_and_die(ctx, reference: str) -> None:
    await ctx.download_file(reference)
    os.kill(os.getpid(), signal.SIGKILL)


@isolated
def files_in_thread(ctx, reference: str, mark: str) -> None:
    """Has a thread fetch a file, and waits for it, whatever happens: a join that is interrupted counts it as ended."""
    ended = threading.Event()

    def fetch() -> None:
        try:
            ctx.download_file(reference)
        except asyncio.CancelledError as error:
            Path(mark).write_text(f"{type(error).__name__} {ctx.cancel_reason.value}")
        finally:
            ended.set()

    threading.Thread(target=fetch).start()
    try:
        ended.wait()
    finally:
        ended.wait()


@isolated
def print_in(encoding: str) -> None:
    sys.stdout.reconfigure(encoding=encoding)
    print("\N{LATIN SMALL LETTER E WITH ACUTE}")


@isolated
def default_signals() -> list[bool]:
    return [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGCHLD, signal.SIGCONT)]


@isolated
def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


@isolated
async def stream(ctx, fail: int = 0) -> None:
    async with ctx.stream() as out:
        await out.send("one ")
        await out.send("x" * 9000)
    with ctx_sync(ctx).stream() as out:
        out.send("two")
        if fail:
            raise ValueError("s3cret")


@isolated
def leak(ctx, params: dict) -> None:
    login = params["login"]
    try:
        {}[login["password"]]
    except KeyError as error:
        ctx.logger.exception("no %s", login["password"])
        words = f"refused {login['password']}, {login['pin_code']}, {os.environ['MY_API_KEY']}"
        raise ValueError(words) from error


def ctx_sync(ctx) -> SyncActivityContext:
    return SyncActivityContext(ctx._state)


@isolated
def nested_loop() -> int:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 5

    return asyncio.run(inner())


@registry.activity(offload="process", max_memory_mb=300)
def hoard(mb: int) -> int:
    held = [b"x" * (1 << 20) for _ in range(mb)]
    threading.Event().wait(60)
    return len(held)
