"""Chooses the event loop, and runs it to the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog

from flowherd.errors import ConfigurationError
from flowherd.memory import forget_zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)


def new_loop(kind: Literal["auto", "uvloop", "asyncio"]) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns a factory of loops; `auto` is uvloop where it is installed."""
    if kind == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - optional on this platform
    except ImportError:
        if kind == "uvloop":
            raise ConfigurationError("--loop uvloop: uvloop is not installed here; use --loop auto") from None
        return asyncio.new_event_loop
    return lambda: _lean(uvloop.new_event_loop())


def _lean(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Returns the loop, after releasing its zeroed receive buffer of 256 KB, which may never be used."""
    forget_zeros(loop, type(loop).__basicsize__)
    return loop


def run_to_the_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Runs the loop until `work` has ended, even when a handler's own task calls `sys.exit` (C9)."""
    task = loop.create_task(work)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            log.error("task_tried_to_exit", exception=repr(error), note="the process goes on")
