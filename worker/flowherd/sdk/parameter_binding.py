"""Binds an activity's parameters to a handler's arguments."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import GenericAlias, SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from flowherd.errors import InvalidParameters, RegistryError
from flowherd.sdk.context import BaseContext
from flowherd.sdk.error_texts import describe_validation
from flowherd.sdk.parameter_model_types import Shape, is_dict, is_made_of_something, options_of

if TYPE_CHECKING:
    from collections.abc import Callable

EMPTY = inspect.Parameter.empty
CONTEXT_NAMES = frozenset({"ActivityContext", "SyncActivityContext"})
MAX_PROBLEMS = 10
INJECTED = frozenset(
    (
        "model_pricing",
        "activity_budget_limit_usd",
        "workflow_budget_limit_usd",
        "cumulative_activity_cost_usd",
    )
)  # the engine adds these itself (protocol.md §8.4)


class Source(Enum):
    """The source of an argument's value."""

    CONTEXT = "context"
    WHOLE = "all parameters"
    EITHER = "all parameters, or the one of that name"
    NAMED = "the parameter of that name"
    REST = "all parameters no other argument names"


_CONTEXT, _WHOLE, _EITHER, _REST = Source.CONTEXT, Source.WHOLE, Source.EITHER, Source.REST  # for speed


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a handler; without an `adapter` any value is accepted unchecked."""

    name: str
    source: Source
    adapter: TypeAdapter[Any] | None = None
    default: Any = EMPTY
    by_keyword: bool = False
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """The arguments of one handler, analysed once; `taken` holds the accepted parameter names, None for any name."""

    arguments: tuple[Argument, ...]
    taken: frozenset[str] | None = None

    @classmethod
    def of(cls, handler: Callable[..., Any]) -> Binding:
        """Reads the handler's signature; RegistryError names the remedy when no activity can be called with it."""
        try:
            parameters = list(inspect.signature(handler).parameters.values())
        except (TypeError, ValueError) as exc:
            raise RegistryError("its signature cannot be read: wrap it in a function of your own") from exc
        contexts = [found for found in parameters if _is_context(found, handler)]
        if len(contexts) > 1:
            raise RegistryError("it takes two contexts: remove one")
        others = [found for found in parameters if found not in contexts]
        arguments = tuple(_argument(found, contexts, others, handler) for found in parameters)
        return cls(arguments, _taken(arguments))

    def untaken(self, parameters: Any) -> list[str]:
        """Returns the names of the parameters that no argument takes, sorted."""
        if self.taken is None or not parameters or parameters.keys() <= self.taken:
            return []
        return sorted(parameters.keys() - self.taken)

    def bind(self, parameters: Any, context: Any) -> tuple[list[Any], dict[str, Any]]:
        """Returns positional and keyword arguments for one call.

        Raises:
            InvalidParameters: names field paths, never values (faults.md A11).

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
                keywords.update(self._rest(argument, parameters, problems))
                continue
            elif argument.source is _EITHER:
                value = _either(argument, parameters, problems)
            else:
                value = _value(argument, parameters, problems)
            if argument.by_keyword:
                keywords[argument.name] = value
            else:
                positional.append(value)
        if problems:
            raise InvalidParameters("; ".join(problems[:MAX_PROBLEMS]))
        return positional, keywords

    def _rest(
        self, argument: Argument, parameters: Mapping[str, Any], problems: list[str]
    ) -> Mapping[str, Any]:
        """Returns the validated keyword arguments for `**argument`."""
        named = {other.name for other in self.arguments if other is not argument}
        rest = {name: given for name, given in parameters.items() if name not in named}
        value, wrong = _validated(argument, rest)
        if wrong is None:
            found: Mapping[str, Any] = value
            return found
        problems.append(describe_validation(wrong))
        return {}


def _taken(arguments: tuple[Argument, ...]) -> frozenset[str] | None:
    taken = set(INJECTED)
    for argument in arguments:
        if argument.source in {Source.WHOLE, Source.REST} or (argument.shape and argument.shape.is_open):
            return None
        if argument.source is not Source.CONTEXT:
            taken.add(argument.name)
        if argument.shape is not None:
            taken |= argument.shape.fields
    return frozenset(taken)


def _value(argument: Argument, parameters: Mapping[str, Any], problems: list[str]) -> Any:
    """Returns the validated argument; appends errors to `problems`, so that all are named at once."""
    if argument.source is _WHOLE:
        if not parameters and argument.default is not EMPTY:
            return argument.default
        given: Any = parameters
        prefix: tuple[str, ...] = ()
    elif argument.name in parameters:
        given, prefix = parameters[argument.name], (argument.name,)
        if argument.adapter is None:
            return given
    elif argument.default is not EMPTY:
        return argument.default
    else:
        problems.append(f"{argument.name}: Field required")
        return None
    value, wrong = _validated(argument, given)
    if wrong is not None:
        problems.append(describe_validation(wrong, prefix))
    return value


def _either(argument: Argument, parameters: Mapping[str, Any], problems: list[str]) -> Any:
    """Returns the only argument, a model, built from all parameters or from the object under its name, whichever fits.

    Without such an object, and when no parameter is a field of the model, the argument's default is used.
    """
    name, shape = argument.name, argument.shape
    assert shape is not None
    whole, wrong = _validated(argument, parameters)
    takes_some = wrong is None and is_made_of_something(whole)
    if name not in parameters or name in shape.fields:
        if takes_some:
            return whole
        is_alien = wrong is None or not ((shape.is_open and parameters) or parameters.keys() & shape.fields)
        if argument.default is not EMPTY and is_alien:
            return argument.default
        if wrong is not None:
            problems.append(_misfit(name, shape, wrong, None))
        return whole
    named, wrong_named = _validated(argument, parameters[name])
    if takes_some == (wrong_named is None):
        both = f"both shapes fit, send one: {shape.expected(name)}"
        problems.append(both if wrong_named is None else _misfit(name, shape, wrong, wrong_named))
    return whole if takes_some else named


def _misfit(name: str, shape: Shape, whole: ValidationError | None, named: ValidationError | None) -> str:
    """Returns the errors of the reading that was meant; of both, with the expected shapes, where neither has its shape.

    Args:
        name: the argument's name.
        shape: the fields of its model.
        whole: the errors of all parameters as the model, None if there are none.
        named: the errors of the object under the argument's name; None without such an object.

    """
    readings = {(name,): named, (): whole}
    for prefix, errors in readings.items():
        if errors is not None and not shape.is_missed(errors):
            return describe_validation(errors, prefix)
    texts = [describe_validation(errors, prefix) for prefix, errors in readings.items() if errors is not None]
    return f"{'; '.join(texts)} (expected: {shape.expected(name)})"


def _validated(argument: Argument, given: Any) -> tuple[Any, ValidationError | None]:
    """Returns the validated value, or None and the errors."""
    if argument.adapter is None:
        return given, None
    try:
        return argument.adapter.validate_python(given), None
    except ValidationError as exc:
        failure = exc
    try:  # a strict model accepts a datetime from JSON text, but not from a Python string
        return argument.adapter.validate_json(json.dumps(given)), None
    except (ValidationError, TypeError, ValueError, RecursionError):
        return None, failure


def _is_context(parameter: inspect.Parameter, handler: Callable[..., Any]) -> bool:
    if parameter.name == "ctx":
        return True
    annotation = parameter.annotation
    if isinstance(annotation, str):
        if annotation.rpartition(".")[2].split("|")[0].strip() in CONTEXT_NAMES:
            return True  # the class may be imported for type checkers only
        annotation = _resolve(parameter, handler)
    return any(
        inspect.isclass(option) and (issubclass(option, BaseContext) or option.__name__ in CONTEXT_NAMES)
        for option in options_of(annotation)
    )


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
        return Argument(name, Source.REST, _adapter(name, _rest_of(parameter, handler)), by_keyword=True)
    annotation = _resolve(parameter, handler)
    adapter, source, shape = _adapter(name, annotation), Source.NAMED, None
    if len(others) == 1:
        shape = Shape.of(annotation)
        if shape is not None:
            source = Source.EITHER
        elif name == "params" or is_dict(annotation):
            source = Source.WHOLE
    return Argument(name, source, adapter, parameter.default, by_keyword, shape)


def _rest_of(parameter: inspect.Parameter, handler: Callable[..., Any]) -> Any:
    """The type of all that `**kw` gets: its annotation is that of each value, or a TypedDict in an Unpack."""
    annotation = _resolve(parameter, handler)
    if annotation in (EMPTY, Any, object):
        return EMPTY
    if repr(typing.get_origin(annotation)).rpartition(".")[2] == "Unpack":  # typing's or typing_extensions'
        return typing.get_args(annotation)[0]
    return GenericAlias(dict, (str, annotation))


def _adapter(name: str, annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (EMPTY, Any, object, dict, dict[str, Any], dict[str, object]):
        return None
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, TypeError, NameError, AttributeError) as exc:
        reason = str(exc).partition("\n")[0]
        raise RegistryError(f"the annotation of {name!r} is nothing pydantic can validate: {reason}") from exc


def _resolve(parameter: inspect.Parameter, handler: Callable[..., Any]) -> Any:
    """Returns the annotation as an object, also when `from __future__ import annotations` made it a string."""
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
    """Returns the names that a nested function uses from the enclosing function."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):
        return {}
