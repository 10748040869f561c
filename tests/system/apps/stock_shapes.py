"""Other shapes of a stock app: a registry in the module, the module itself, one activity of either style."""

from __future__ import annotations

from typing import Any

from kruxiaflow.worker import Activity, ActivityContext, ActivityRegistry, ActivityResult, activity


@activity()
async def greet(params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
    """Greets."""
    return ActivityResult.value("greeting", f"hello {params['name']}")


class Greet(Activity):
    """The same in class style."""

    @property
    def name(self) -> str:
        """The name in workflow definitions."""
        return "greet"

    async def execute(self, params: dict[str, Any], ctx: ActivityContext) -> ActivityResult:
        """Greets."""
        return ActivityResult.value("greeting", f"hello {params['name']}")


in_class_style = Greet()
registry = ActivityRegistry()
registry.register(in_class_style, "ours")
registry.register(greet, "another")
