"""The definition of an activity: its name, its handler and how the handler runs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from sys import float_info
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from flowherd.errors import RegistryError
from flowherd.sdk.parameter_binding import Binding

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NAME_CHARS = 200


class Mode(Enum):
    """The place where a handler runs."""

    LOOP = "loop"
    THREAD = "thread"
    PROCESS = "process"


class ActivityOptions(TypedDict, total=False):
    """The options of `@activity(…)`.

    Attributes:
        name: the activity's name in definitions; the function's name by default.
        offload: "loop", "thread" or "process"; by default an `async def` runs on the loop and a `def` in a thread.
            "process" is an isolate: a process that can be stopped. It needs `flowherd run`.
        offload_to_thread: True means `offload="thread"`; the stock SDK's spelling.
        timeout_s: seconds one attempt may take; the smaller of this and the step's `timeout_seconds` applies.
        max_memory_mb: memory limit of its isolate in MB, shared pages included; above it the isolate is killed
            and the failure is `OUT_OF_MEMORY`. Needs offload="process".
        max_concurrent: attempts that may run at the same time on the whole host; the others wait in their slots.
        worker: the only worker type that may run it.

    """

    name: str | None
    offload: str | None
    offload_to_thread: bool
    timeout_s: float | None
    max_concurrent: int | None
    max_memory_mb: int | None
    worker: str | None


@dataclass(frozen=True)
class ActivityDefinition:
    """An activity and how its handler runs.

    Attributes:
        name: the activity's name in the engine.
        handler: the function to call with the arguments that `binding` makes.
        mode: where the handler runs.
        is_placed: True when its code or the settings file says where.
        timeout_s: the longest an attempt may run, in seconds; None for the engine's or the worker's limit.
        max_memory_mb: the limit of the isolate's resident memory in MB, None for no limit.
        max_concurrent: how many attempts of it may run at the same time on this host, None for no limit.
        worker_type: the only worker type that serves it, None for any.
        is_async: True when calling the handler returns an awaitable.
        origin: `function, file:line`, for messages.
        options: the options passed to the decorator.

    """

    name: str
    handler: Callable[..., Any] = field(repr=False)
    mode: Mode
    is_placed: bool = False
    timeout_s: float | None = None
    max_concurrent: int | None = None
    max_memory_mb: int | None = None
    worker_type: str | None = None
    is_async: bool = True
    origin: str = ""
    options: ActivityOptions = field(default_factory=ActivityOptions, repr=False, compare=False)

    @cached_property
    def binding(self) -> Binding:
        """The mapping from parameters to arguments; built at first use, when all names in the annotations exist.

        Raises:
            RegistryError: no activity can be called with this signature.

        """
        try:
            return Binding.of(self.handler)
        except RegistryError as exc:
            raise RegistryError(f"activity {self.name!r} ({self.origin}): {exc}") from exc


def define(handler: Any, **options: Unpack[ActivityOptions]) -> ActivityDefinition:
    """Returns the definition of a function, a callable, or an object with `name` and `execute`.

    Raises:
        RegistryError: the message names the function, its location and the remedy.

    """
    function, found_name = _callable_of(handler)
    where = origin_of(function)
    is_async = _is_async(function, where)
    plain = ActivityDefinition(
        name=_name(found_name if options.get("name") is None else options["name"], where),
        handler=function,
        mode=Mode.LOOP if is_async else Mode.THREAD,
        is_async=is_async,
        origin=where,
        options=options,
    )
    return adjusted(plain, options)


def adjusted(definition: ActivityDefinition, options: ActivityOptions) -> ActivityDefinition:
    """Returns the definition with these options replaced; RegistryError for unknown or invalid ones."""
    where = definition.origin or definition.name
    unknown = options.keys() - ActivityOptions.__annotations__.keys()
    if unknown:
        raise RegistryError(f"{where}: activities have no option {', '.join(sorted(unknown))}")
    timeout_s = options.get("timeout_s")
    if timeout_s is not None and not (_is_number(timeout_s) and 0 < timeout_s <= float_info.max):
        raise RegistryError(f"{where}: timeout_s must be a number of seconds above 0")
    max_concurrent = options.get("max_concurrent")
    if max_concurrent is not None and not (isinstance(max_concurrent, int) and max_concurrent >= 1):
        raise RegistryError(f"{where}: max_concurrent must be a whole number of at least 1")
    mode = _mode(options, where, definition)
    max_memory_mb = options.get("max_memory_mb")
    if max_memory_mb is not None:
        if not isinstance(max_memory_mb, int) or isinstance(max_memory_mb, bool) or max_memory_mb < 1:
            raise RegistryError(f"{where}: max_memory_mb must be a whole number of at least 1")
        if mode is not Mode.PROCESS:
            raise RegistryError(f'{where}: max_memory_mb needs offload="process": others share their memory')
    return replace(
        definition,
        mode=mode,
        is_placed=definition.is_placed or _is_placed(options),
        timeout_s=definition.timeout_s if timeout_s is None else float(timeout_s),
        max_concurrent=max_concurrent or definition.max_concurrent,
        max_memory_mb=max_memory_mb or definition.max_memory_mb,
        worker_type=options.get("worker") or definition.worker_type,
    )


def origin_of(function: Any) -> str:
    """Returns `qualified name, file:line`, or the name alone for a callable without Python code."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    label = getattr(plain, "__qualname__", None) or type(plain).__qualname__
    code = getattr(plain, "__code__", None)
    return f"{label}, {code.co_filename}:{code.co_firstlineno}" if code else str(label)


def _callable_of(handler: Any) -> tuple[Callable[..., Any], Any]:
    """Returns the function to call and its default name."""
    if inspect.isclass(handler):
        raise RegistryError(
            f"{handler.__qualname__} is a class: register an instance, {handler.__qualname__}()"
        )
    execute = getattr(handler, "execute", None)
    if callable(execute) and not inspect.isfunction(handler):
        return execute, getattr(handler, "name", None)
    if not callable(handler):
        raise RegistryError(
            f"a {type(handler).__qualname__} is no activity: give a function, or an object with execute"
        )
    return handler, getattr(inspect.unwrap(handler), "__name__", None)


def _is_async(function: Any, where: str) -> bool:
    """True when calling it returns a coroutine; looks through functools.wraps and partials."""
    called = function if inspect.isroutine(function) else getattr(function, "func", function)
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise RegistryError(f"{where} is a generator: an activity returns once, so use return, not yield")
    if inspect.iscoroutinefunction(called):
        return True
    if (inner := getattr(called, "__wrapped__", None)) is None or not inspect.isroutine(called):
        return False
    innermost = inspect.unwrap(inner)
    return inspect.iscoroutinefunction(getattr(innermost, "func", innermost))


def _name(name: Any, where: str) -> str:
    usable = isinstance(name, str) and name.strip() and "\0" not in name and name != "<lambda>"
    if not usable or len(name) > MAX_NAME_CHARS:
        raise RegistryError(f'{where} needs a name of 1 to {MAX_NAME_CHARS} characters: @activity(name="…")')
    return str(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_placed(options: ActivityOptions) -> bool:
    return options.get("offload") is not None or bool(options.get("offload_to_thread"))


def _mode(options: ActivityOptions, where: str, definition: ActivityDefinition) -> Mode:
    """Returns where the handler runs; RegistryError for a plain `def` on the loop or an unknown option."""
    offload, to_thread = options.get("offload"), options.get("offload_to_thread", False)
    if to_thread and offload not in {None, "thread"}:
        raise RegistryError(f"{where}: offload_to_thread=True and offload={offload!r} contradict: keep one")
    if to_thread:
        return Mode.THREAD
    if offload is None:
        return definition.mode
    if offload not in {mode.value for mode in Mode}:
        raise RegistryError(f'{where}: offload must be "thread", "process" or None, not {offload!r}')
    if offload == "loop" and not definition.is_async:
        raise RegistryError(
            f'{where} is a plain def and would block the event loop: drop offload="loop" or make it async def'
        )
    return Mode(offload)
