"""The decorator `@activity`, which attaches an activity definition to a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, overload

from flowherd.errors import RegistryError
from flowherd.sdk.activity_definition import ActivityDefinition, ActivityOptions, define

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "__flowherd_activity__"

Handler = TypeVar("Handler", bound="Callable[..., Any]")


class HandlerDecorator(Protocol):
    """The decorator that `@activity(…)` returns; it returns the decorated function itself."""

    def __call__(self, handler: Handler, /) -> Handler: ...


@overload
def activity(handler: Handler, /) -> Handler: ...
@overload
def activity(**options: Unpack[ActivityOptions]) -> HandlerDecorator: ...
def activity(handler: Any = None, /, **options: Unpack[ActivityOptions]) -> Any:
    """Marks a function as an activity and returns it unchanged, so that you can still call it.

    Args:
        handler: an `async def` or `def`.
        options: see `ActivityOptions`.

    Raises:
        RegistryError: the function cannot be an activity; the message names its place and the remedy.

    """

    def mark(function: Any) -> Any:
        definition = define(function, **options)
        try:
            setattr(function, MARK, definition)
        except (AttributeError, TypeError) as exc:
            raise RegistryError(f"{definition.origin} cannot be decorated: use registry.register(…)") from exc
        return function

    return mark if handler is None else mark(handler)


def definition_of(candidate: Any) -> ActivityDefinition | None:
    """Returns the definition attached to a decorated function, or None for anything else.

    A decorator above `@activity` that uses functools.wraps copies the definition to its wrapper. The wrapper is then
    the handler, as if `@activity` stood above that decorator.
    """
    found = getattr(candidate, "__dict__", {}).get(MARK)
    if not isinstance(found, ActivityDefinition):
        return None
    inner: object = getattr(getattr(candidate, "__wrapped__", None), "__dict__", {}).get(MARK)
    if inner is not found:
        return found
    options: ActivityOptions = {**found.options, "name": found.name}
    return define(candidate, **options)
