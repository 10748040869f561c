"""Chooses the event loop; nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from flowherd.errors import ConfigurationError


def new_loop(kind: Literal["auto", "uvloop", "asyncio"]) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory for `asyncio.Runner`; `auto` is uvloop where it is installed."""
    if kind == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - optional on this platform
    except ImportError:
        if kind == "uvloop":
            raise ConfigurationError("--loop uvloop: uvloop is not installed here; use --loop auto") from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop
