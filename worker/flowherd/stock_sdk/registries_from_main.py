"""Runs a stock worker's own `main` up to the point where its worker would start, to get its registry."""

from __future__ import annotations

import asyncio
import inspect
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowherd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The stock config requires these, even for an engine without credentials.
PLACEHOLDERS = {
    "KRUXIAFLOW_API_URL": "http://127.0.0.1:8080",
    "KRUXIAFLOW_CLIENT_ID": "hosted-by-flowherd",
    "KRUXIAFLOW_CLIENT_SECRET": "hosted-by-flowherd",
}


class HandedOver(BaseException):
    """Ends `main` where the stock worker would begin to poll; a BaseException, so that `except Exception` misses it."""


class _Stand:
    """The registries passed to the managers of one `main`."""

    def __init__(self) -> None:
        self.registries: list[Any] = []
        self.running = False


def registries_of(main: Callable[..., Any], sdk: Any) -> list[Any]:
    """Calls `main` once, with a stand-in for WorkerManager that only records its arguments.

    Returns:
        The registries passed to managers; empty when `main` never started one.

    Raises:
        BaseException: any exception of `main` before it started a manager.

    """
    try:
        inspect.signature(main).bind()
    except TypeError:
        raise ConfigurationError(
            f"{main.__qualname__} takes arguments: a main has none; decorate activities with @activity"
        ) from None
    stand = _Stand()
    with _standing_in(sdk.WorkerManager, stand), _placeholders():
        try:
            started = main()
            if inspect.iscoroutine(started):
                asyncio.run(started)
        except BaseException:
            if not stand.running:
                raise
    return stand.registries if stand.running else []


@contextmanager
def _standing_in(manager: Any, stand: _Stand) -> Iterator[None]:
    """Replaces the methods of the class, because apps have already imported the class itself."""

    def take(self: Any, config: Any, registry: Any) -> None:
        self._config, self._registry = config, registry
        stand.registries.append(registry)

    async def leave(_self: Any) -> None:
        stand.running = True
        raise HandedOver

    async def nothing(_self: Any) -> None:
        """Does nothing: there is nothing to stop."""

    stand_ins = {"__init__": take, "start": leave, "run_until_shutdown": leave, "stop": nothing}
    originals = {name: getattr(manager, name) for name in stand_ins}
    try:
        for name, stand_in in stand_ins.items():
            setattr(manager, name, stand_in)
        yield
    finally:
        for name, original in originals.items():
            setattr(manager, name, original)


@contextmanager
def _placeholders() -> Iterator[None]:
    missing = {name: value for name, value in PLACEHOLDERS.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
