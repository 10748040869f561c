"""Types of arguments that take all parameters: dicts, pydantic models and TypedDicts, with their field names."""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

if typing.TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

# Kinds of pydantic errors about the fields of an object, not about their values.
_OF_SHAPE = frozenset(
    """missing extra_forbidden model_type model_attributes_type dict_type
    union_tag_invalid union_tag_not_found""".split()  # noqa: SIM905  # shorter so
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields that a model is built from.

    Attributes:
        label: the models' names, for messages.
        fields: names and aliases of their fields.
        is_open: True when the model may also use other names, or refuses them itself.
        is_union: True for several models.

    """

    label: str
    fields: frozenset[str]
    is_open: bool
    is_union: bool = False

    @classmethod
    def of(cls, annotation: Any) -> Shape | None:
        """Returns the shape of a model, a union of models, or an optional model; None for any other type."""
        if not (models := _models_in(annotation)):
            return None
        shapes = [_fields_of(model) for model in models]
        return cls(
            " or ".join(model.__name__ for model in models),
            frozenset().union(*(fields for fields, _ in shapes)),
            any(is_open for _, is_open in shapes),
            len(models) > 1,
        )

    def expected(self, name: str) -> str:
        """Describes both accepted shapes; only one when the model has a field with the argument's own name."""
        whole = f"the fields of {self.label}"
        return whole if name in self.fields else f"{whole}, or an object of them as {name!r}"

    def is_missed(self, errors: ValidationError) -> bool:
        """True when fields of the model itself are missing or unknown, or it got no object: not for wrong values."""
        depth = 2 if self.is_union else 1  # pydantic names the model first
        return any(
            error["type"] in _OF_SHAPE and len(error["loc"]) <= depth
            for error in errors.errors(include_url=False, include_context=False, include_input=False)
        )


def options_of(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone."""
    origin = typing.get_origin(annotation)
    return typing.get_args(annotation) if origin in {typing.Union, UnionType} else (annotation,)


def is_dict(annotation: Any) -> bool:
    """True when a single argument of this type gets all parameters unchanged."""
    plain = typing.get_origin(annotation) or annotation
    if plain is typing.Annotated:
        return is_dict(typing.get_args(annotation)[0])
    return inspect.isclass(plain) and issubclass(plain, dict)


def is_made_of_something(value: Any) -> bool:
    """True when the model used any parameter; one whose fields all have defaults can be built from any object."""
    if isinstance(value, BaseModel):
        return bool(value.model_fields_set)
    return not isinstance(value, dict) or bool(value)


def _models_in(annotation: Any) -> list[Any]:
    """Returns the models in a type; empty when it has members other than models and None."""
    plain = typing.get_origin(annotation) or annotation
    if plain is typing.Annotated:
        return _models_in(typing.get_args(annotation)[0])
    options = [option for option in options_of(annotation) if option is not NoneType]
    if len(options) == 1 and options[0] is annotation:
        is_model = inspect.isclass(plain) and issubclass(plain, BaseModel)
        return [plain] if is_model or typing.is_typeddict(plain) or _is_typed_dict(plain) else []
    found = [_models_in(option) for option in options]
    return [model for models in found for model in models] if all(found) else []


def _is_typed_dict(kind: Any) -> bool:
    """True for a TypedDict of typing_extensions, which typing does not recognise."""
    return inspect.isclass(kind) and issubclass(kind, dict) and hasattr(kind, "__total__")


def _fields_of(model: Any) -> tuple[set[str], bool]:
    if not issubclass(model, BaseModel):
        return {*model.__required_keys__, *model.__optional_keys__}, False
    if issubclass(model, RootModel):
        return set(), True
    validators = model.__pydantic_decorators__.model_validators.values()
    looks_at_all = any(found.info.mode != "after" for found in validators)
    names = {alias for name, field in model.model_fields.items() for alias in (name, *_aliases_of(field))}
    return names, looks_at_all or model.model_config.get("extra", "ignore") != "ignore"


def _aliases_of(field: FieldInfo) -> list[str]:
    aliases = [field.alias, field.validation_alias]
    if isinstance(field.validation_alias, AliasChoices):
        aliases += field.validation_alias.choices
    names = [alias.path[0] if isinstance(alias, AliasPath) else alias for alias in aliases]
    return [name for name in names if isinstance(name, str)]
