"""Handlers that create their own spans, in all three places, without using flowherd's."""

from __future__ import annotations

import asyncio
import os
import signal

from opentelemetry import trace

from flowherd import ActivityError, Registry

registry = Registry()
tracer = trace.get_tracer("app")


@registry.activity
async def on_loop(x: int) -> int:
    with tracer.start_as_current_span("inside on_loop"):
        await asyncio.sleep(0)
        return x


@registry.activity
def in_thread(x: int) -> int:
    with tracer.start_as_current_span("inside in_thread"):
        return x


@registry.activity(offload="process")
def in_isolate(x: int) -> int:
    with tracer.start_as_current_span("inside in_isolate"):
        return x


@registry.activity(offload="process")
async def in_isolate_async(x: int) -> int:
    with tracer.start_as_current_span("inside in_isolate_async"):
        return x


def _refuse(secret_word: str) -> None:
    raise ActivityError(f"no {secret_word}", code="REFUSED", retryable=False)


@registry.activity
async def refuse_on_loop(word: str) -> None:
    _refuse(word)


@registry.activity(offload="process")
def refuse_in_isolate(word: str) -> None:
    _refuse(word)


@registry.activity(timeout_s=0.2)
async def too_slow() -> None:
    await asyncio.Event().wait()


@registry.activity(offload="process")
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@registry.activity
async def fork_a_copy() -> int:
    """Forks, as some libraries do; the copy exits by itself."""
    with tracer.start_as_current_span("inside fork_a_copy"):
        pid = os.fork()
        if not pid:
            os._exit(0)
        return os.waitpid(pid, 0)[1]  # noqa: ASYNC222 - it exits at once
