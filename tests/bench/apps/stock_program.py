"""The shape of every stock example, for the stock programs of the benches; it has no activity of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kruxiaflow.worker import ActivityRegistry, WorkerConfig, WorkerManager

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def program(*activities: Any) -> Callable[[], Coroutine[Any, Any, None]]:
    """A `main` that registers these and works until it is told to stop."""

    async def main() -> None:
        registry = ActivityRegistry()
        for one in activities:
            registry.register(one, "py-std")
        await WorkerManager(WorkerConfig(), registry).run_until_shutdown()

    return main
