"""The registry: the activities of an app, by name."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Unpack, cast, overload

from flowherd.errors import RegistryError
from flowherd.sdk.activity_decorator import MARK, Handler, HandlerDecorator, activity, definition_of
from flowherd.sdk.activity_definition import ActivityDefinition, ActivityOptions, Mode, adjusted, define

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

CONFIGURABLE = frozenset({"offload", "timeout_s", "max_concurrent", "max_memory_mb"})

MakeLifespan: TypeAlias = "Callable[[], AbstractAsyncContextManager[Any]]"


class ForeignKind(Protocol):
    """An adapter for the activities of another SDK; it is added to `foreign_kinds`."""

    def is_activity(self, candidate: Any, /) -> bool:
        """True for an activity of that SDK."""
        ...

    def definition_of(self, activity: Any, worker_type: str | None = None, /) -> ActivityDefinition:
        """Returns the definition of that SDK's activity."""
        ...


foreign_kinds: list[ForeignKind] = []


class Registry:
    """The activities of an app.

    Args:
        worker_type: worker type of the activities that set none themselves; None for any type.
        lifespan: a function decorated with `@asynccontextmanager`. Each process enters it before it takes work
            and leaves it after its last activity. The value it yields is `ctx.state`.

    Raises:
        RegistryError: the lifespan is not a function that makes an async context manager.

    """

    def __init__(self, worker_type: str | None = None, *, lifespan: MakeLifespan | None = None) -> None:
        if lifespan is not None and (not callable(lifespan) or isasyncgenfunction(lifespan)):
            raise RegistryError(
                "lifespan must be a function that returns an async context manager: "
                "decorate an async generator with @contextlib.asynccontextmanager"
            )
        self.worker_type = worker_type
        self.lifespan = lifespan
        self._definitions: dict[tuple[str | None, str], ActivityDefinition] = {}

    def __repr__(self) -> str:
        return f"<Registry {self.worker_type or 'any type'}: {', '.join(self.names()) or 'empty'}>"

    def __len__(self) -> int:
        return len(self._definitions)

    def __iter__(self) -> Iterator[ActivityDefinition]:
        return iter(self._definitions.values())

    @overload
    def activity(self, handler: Handler, /) -> Handler: ...
    @overload
    def activity(self, /, **options: Unpack[ActivityOptions]) -> HandlerDecorator: ...
    def activity(self, handler: Any = None, /, **options: Any) -> Any:
        """Decorates a function as `activity` does, and registers it."""

        def register(function: Any) -> Any:
            self.add(activity(**options)(function).__dict__[MARK])
            return function

        return register if handler is None else register(handler)

    def register(self, handler: Any, worker: str | None = None, **options: Any) -> ActivityDefinition:
        """Registers a function, decorated or not, or an object with `name` and `execute`.

        Args:
            handler: the function or object.
            worker: its worker type; by default the registry's.
            options: as for `activity`. A decorated function brings its own.

        Raises:
            RegistryError: it cannot be an activity, or its name is taken.

        """
        for kind in foreign_kinds:
            if kind.is_activity(handler):
                foreign = kind.definition_of(handler, worker)
                return self.add(adjusted(foreign, cast("ActivityOptions", options)))
        found = definition_of(handler)
        if found is None:
            return self.add(define(handler, worker=worker, **options))
        if options:
            raise RegistryError(
                f"{found.origin} is decorated already: give its @activity {', '.join(options)}"
            )
        return self.add(found if worker is None else replace(found, worker_type=worker))

    def add(self, definition: ActivityDefinition) -> ActivityDefinition:
        """Adds a definition; RegistryError if another one has the same name and worker type."""
        if definition.worker_type is None and self.worker_type is not None:
            definition = replace(definition, worker_type=self.worker_type)
        for held in self._definitions.values():
            types = {held.worker_type, definition.worker_type}
            if held.name == definition.name and (len(types) == 1 or None in types):
                raise RegistryError(
                    f"two activities are named {definition.name!r}: {held.origin} and {definition.origin}; "
                    f'give one @activity(name="…")'
                )
        self._definitions[definition.worker_type, definition.name] = definition
        return definition

    def lookup(self, name: str) -> ActivityDefinition | None:
        """The activity of that name, None if there is none; with several worker types, the first."""
        by_name = self._definitions
        exact = by_name.get((self.worker_type, name)) or by_name.get((None, name))
        return exact or next((found for found in by_name.values() if found.name == name), None)

    def names(self) -> tuple[str, ...]:
        """Names of the activities, in the order of registration."""
        return tuple(dict.fromkeys(found.name for found in self._definitions.values()))

    def worker_types(self) -> tuple[str, ...]:
        """Worker types that the activities set, in the order of registration."""
        return tuple(dict.fromkeys(found.worker_type for found in self if found.worker_type is not None))

    def for_type(self, worker_type: str) -> Registry:
        """A new registry with the activities that a worker of this type runs."""
        chosen = Registry(worker_type, lifespan=self.lifespan)
        for found in self:
            if found.worker_type in {None, worker_type}:
                chosen.add(found)
        return chosen

    def configured(self, changes: Mapping[str, Mapping[str, Any]]) -> Registry:
        """A new registry with some options replaced, as `[activities.NAME]` in `flowherd.toml` does.

        Args:
            changes: activity name → `offload`, `timeout_s`, `max_concurrent`, `max_memory_mb`.

        Raises:
            RegistryError: an unknown name or option, or a value that makes no sense.

        """
        strangers = changes.keys() - set(self.names())
        if strangers:
            name = min(strangers)
            close = get_close_matches(name, self.names(), 1)
            known = f"did you mean {close[0]}?" if close else f"it has {', '.join(self.names())}"
            raise RegistryError(f"[activities.{name}] configures no activity of this app: {known}")
        registry = Registry(self.worker_type, lifespan=self.lifespan)
        for found in self:
            change = changes.get(found.name, {})
            misplaced = change.keys() - CONFIGURABLE
            if misplaced:
                raise RegistryError(f"[activities.{found.name}] has no option {', '.join(sorted(misplaced))}")
            registry.add(adjusted(found, cast("ActivityOptions", change)) if change else found)
        registry.check()
        return registry

    def check(self) -> None:
        """Checks the signatures of all handlers; RegistryError for the first that cannot be called."""
        for found in self:
            _ = found.binding

    def check_alone(self) -> None:
        """RegistryError for the first activity that needs an isolate, which only `flowherd run` makes."""
        for found in self:
            if found.mode is Mode.PROCESS:
                raise RegistryError(
                    f'activity {found.name!r} ({found.origin}): offload="process" needs the supervisor, which '
                    'makes its isolates: use `flowherd run`, or offload="thread"'
                )

    @classmethod
    def of(cls, handlers: Iterable[Any], worker_type: str | None = None) -> Registry:
        """Makes a registry of these handlers; RegistryError as `register`."""
        registry = cls(worker_type)
        for handler in handlers:
            registry.register(handler)
        return registry
