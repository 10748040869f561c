"""How an activity's parameters become a handler's arguments; it must not call the handler."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from flowherd.errors import InvalidParameters, RegistryError
from flowherd.sdk.context import BaseContext
from flowherd.sdk.tracebacks import describe_validation

if TYPE_CHECKING:
    from collections.abc import Callable

EMPTY = inspect.Parameter.empty
CONTEXT_NAMES = frozenset({"ActivityContext", "SyncActivityContext"})
MAX_PROBLEMS = 10


class Source(Enum):
    """Where an argument comes from."""

    CONTEXT = "context"
    WHOLE = "all parameters"
    NAMED = "the parameter of that name"
    REST = "all parameters no other argument names"


_CONTEXT, _WHOLE, _REST = Source.CONTEXT, Source.WHOLE, Source.REST  # compared at each call


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a handler; `adapter` is None where anything is accepted as it came."""

    name: str
    source: Source
    adapter: TypeAdapter[Any] | None = None
    default: Any = EMPTY
    by_keyword: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """The plan for one handler, made once."""

    arguments: tuple[Argument, ...]

    @classmethod
    def of(cls, handler: Callable[..., Any]) -> Binding:
        """Reads the signature; RegistryError with the remedy when no activity can be called with it."""
        try:
            parameters = list(inspect.signature(handler).parameters.values())
        except (TypeError, ValueError) as exc:
            raise RegistryError("its signature cannot be read: wrap it in a function of your own") from exc
        contexts = [found for found in parameters if _is_context(found, handler)]
        if len(contexts) > 1:
            raise RegistryError("it takes two contexts: remove one")
        others = [found for found in parameters if found not in contexts]
        return cls(tuple(_argument(found, contexts, others, handler) for found in parameters))

    def bind(self, parameters: Any, context: Any) -> tuple[list[Any], dict[str, Any]]:
        """Returns positional and keyword arguments for one call.

        Raises:
            InvalidParameters: with field paths and never a value (faults.md A11).

        """
        if type(parameters) is not dict and not isinstance(parameters, Mapping):
            if parameters is not None:
                raise InvalidParameters(f"parameters must be an object, not {type(parameters).__name__}")
            parameters = {}
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        problems: list[str] = []
        for argument in self.arguments:
            if argument.source is _CONTEXT:
                value = context
            elif argument.source is _REST:
                named = {other.name for other in self.arguments if other.source is Source.NAMED}
                keywords.update({name: given for name, given in parameters.items() if name not in named})
                continue
            else:
                value = _value(argument, parameters, problems)
            if argument.by_keyword:
                keywords[argument.name] = value
            else:
                positional.append(value)
        if problems:
            raise InvalidParameters("; ".join(problems[:MAX_PROBLEMS]))
        return positional, keywords


def _value(argument: Argument, parameters: Mapping[str, Any], problems: list[str]) -> Any:
    """The validated argument; what is wrong goes to `problems`, so that all is named at once."""
    if argument.source is _WHOLE:
        given = parameters
    elif argument.name in parameters:
        given = parameters[argument.name]
    elif argument.default is not EMPTY:
        return argument.default
    else:
        problems.append(f"{argument.name}: Field required")
        return None
    if argument.adapter is None:
        return given
    try:
        return argument.adapter.validate_python(given)
    except ValidationError as exc:
        failure = exc
    try:  # a strict model takes a datetime from JSON text though not from a Python string
        return argument.adapter.validate_json(json.dumps(given))
    except (ValidationError, TypeError, ValueError, RecursionError):
        prefix = () if argument.source is Source.WHOLE else (argument.name,)
        problems.append(describe_validation(failure, prefix))
        return None


def _is_context(parameter: inspect.Parameter, handler: Callable[..., Any]) -> bool:
    if parameter.name == "ctx":
        return True
    annotation = parameter.annotation
    if isinstance(annotation, str):
        if annotation.rpartition(".")[2].split("|")[0].strip() in CONTEXT_NAMES:
            return True  # perhaps imported for type checkers only
        annotation = _resolve(parameter, handler)
    return any(
        inspect.isclass(option) and (issubclass(option, BaseContext) or option.__name__ in CONTEXT_NAMES)
        for option in _options(annotation)
    )


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    origin = typing.get_origin(annotation)
    return typing.get_args(annotation) if origin in {typing.Union, UnionType} else (annotation,)


def _argument(
    parameter: inspect.Parameter,
    contexts: list[inspect.Parameter],
    others: list[inspect.Parameter],
    handler: Callable[..., Any],
) -> Argument:
    name, kind = parameter.name, parameter.kind
    by_keyword = kind is inspect.Parameter.KEYWORD_ONLY
    if parameter in contexts:
        return Argument(name, Source.CONTEXT, by_keyword=by_keyword)
    if kind is inspect.Parameter.VAR_POSITIONAL:
        raise RegistryError(
            f"*{name} cannot be bound: parameters have names, so name them or take params: dict"
        )
    if kind is inspect.Parameter.VAR_KEYWORD:
        return Argument(name, Source.REST, by_keyword=True)
    annotation = _resolve(parameter, handler)
    whole = len(others) == 1 and (name == "params" or _takes_all(annotation))
    source = Source.WHOLE if whole else Source.NAMED
    return Argument(name, source, _adapter(name, annotation), parameter.default, by_keyword)


def _takes_all(annotation: Any) -> bool:
    """Whether a single argument of this type stands for all parameters: a dict or a pydantic model."""
    plain = typing.get_origin(annotation) or annotation
    if plain is typing.Annotated:
        return _takes_all(typing.get_args(annotation)[0])
    if typing.is_typeddict(plain):
        return True
    return inspect.isclass(plain) and issubclass(plain, dict | BaseModel)


def _adapter(name: str, annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (EMPTY, Any, object, dict, dict[str, Any], dict[str, object]):
        return None
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, TypeError, NameError, AttributeError) as exc:
        reason = str(exc).partition("\n")[0]
        raise RegistryError(f"the annotation of {name!r} is nothing pydantic can validate: {reason}") from exc


def _resolve(parameter: inspect.Parameter, handler: Callable[..., Any]) -> Any:
    """The annotation as an object, also where `from __future__ import annotations` made it text."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    function = getattr(function, "func", function)
    if not inspect.isroutine(function):
        function = type(function).__call__
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    closure = _closure_of(function)
    try:
        hints = typing.get_type_hints(
            holder, getattr(function, "__globals__", {}), closure, include_extras=True
        )
    except (NameError, TypeError, SyntaxError, AttributeError) as exc:
        raise RegistryError(
            f"the annotation of {parameter.name!r} is unknown at run time ({exc}): import it unconditionally"
        ) from exc
    return hints[parameter.name]


def _closure_of(function: Any) -> dict[str, Any]:
    """The names a nested function sees of the function around it."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}
