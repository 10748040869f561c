"""A single model parameter takes all parameters or the object under its name; defaults mean what Python says."""

import logging
from typing import Annotated, Any, Literal

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, model_validator
from typing_extensions import TypedDict, Unpack

from flowherd import InvalidParameters, activity
from flowherd.execution.run_environment import RunEnvironment
from flowherd.sdk.parameter_binding import Binding
from flowherd.testing import run_activity_sync


def bound(handler, parameters):
    """What the handler returns when it is called with what was bound."""
    positional, keywords = Binding.of(handler).bind(parameters, object())
    return handler(*positional, **keywords)


class Order(BaseModel):
    item: str
    count: int = 1


class Options(BaseModel):
    fast: bool = False
    tries: int = Field(3, validation_alias=AliasChoices("tries", "attempts"))


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Names(RootModel[list[str]]):
    """No object."""


class Fast(TypedDict):
    fast: bool


def _required(order: Order):
    return order


def _optional(order: Order | None):
    return order


def _annotated(order: Annotated[Order, "of a shop"]):
    return order


def _with_context(ctx, order: Order):
    return order


@pytest.mark.parametrize("handler", [_required, _optional, _annotated, _with_context])
@pytest.mark.parametrize(
    "parameters",
    [
        {"item": "nail", "count": "3"},
        {"order": {"item": "nail", "count": 3}},
        {"order": {"item": "nail", "count": 3}, "model_pricing": {}},
        {"item": "nail", "count": 3, "order": "number 5"},
    ],
)
def test_a_model_is_all_parameters_or_the_object_under_its_name(handler, parameters):
    """FastAPI's rule for a single body parameter, and what its users write with two of them."""
    assert bound(handler, parameters) == Order(item="nail", count=3)


def test_a_union_of_models_a_typed_dict_and_a_list_are_models_too():
    """Whatever pydantic can tell by its shape."""

    def pet(pet: Annotated[Cat | Dog, Field(discriminator="kind")]):
        return pet

    def typed(options: Fast):
        return options

    def names(names: Names):
        return names.root

    assert bound(pet, {"kind": "dog"}) == bound(pet, {"pet": {"kind": "dog"}}) == Dog(kind="dog")
    assert bound(typed, {"fast": 1}) == bound(typed, {"options": {"fast": True}}) == {"fast": True}
    assert bound(names, {"names": ["a"]}) == ["a"]


def test_a_model_whose_fields_all_have_defaults_is_not_filled_from_nothing():
    """`Options()` would be made of any object; it fits only where it takes something."""

    def handler(options: Options):
        return options

    assert bound(handler, {"options": {"fast": True}}).fast
    assert bound(handler, {"attempts": 7}).tries == 7
    assert bound(handler, {}) == Options()


class Order2(BaseModel):
    order: dict[str, Any]
    item: str = ""


def test_a_field_of_the_parameters_name_is_that_field():
    """The object belongs to the model then."""

    def handler(order: Order2):
        return order.order

    assert bound(handler, {"order": {"item": "nail", "order": {}}}) == {"item": "nail", "order": {}}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, ["item: Field required", "the fields of Order", "an object of them as 'order'"]),
        ({"count": 1}, ["item: Field required", "an object of them as 'order'"]),
        (
            {"order": {"count": 1}},
            ["order.item: Field required", "item: Field required", "the fields of Order"],
        ),
        (
            {"item": "a", "order": {"item": "b"}},
            ["both", "the fields of Order", "an object of them as 'order'"],
        ),
    ],
)
def test_where_both_or_neither_fit_the_shapes_are_named(parameters, words):
    """Nothing is guessed where two readings are possible."""
    with pytest.raises(InvalidParameters) as caught:
        bound(_required, parameters)
    assert all(word in str(caught.value) for word in words), str(caught.value)


class Size(BaseModel):
    width: int = Field(ge=1)


class Picture(BaseModel):
    path: str
    size: Size


def _picture(picture: Picture):
    return picture


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"path": "a", "size": {"width": 0}}, "size.width: Input should be greater than or equal to 1"),
        ({"path": "a", "size": {}}, "size.width: Field required"),
        (
            {"picture": {"path": "a", "size": {"width": 0}}},
            "picture.size.width: Input should be greater than or equal to 1",
        ),
        ({"path": 1, "size": {"width": 0}, "picture": 3}, None),
    ],
)
def test_a_wrong_value_in_the_right_shape_is_named_alone(parameters, words):
    """The shapes would say nothing new, and the errors of the other reading would confuse."""
    with pytest.raises(InvalidParameters) as caught:
        bound(_picture, parameters)
    if words is None:  # all parameters have the shape, the object under the name has not
        assert str(caught.value).startswith("path: Input should be a valid string; size.width: ")
        assert "expected" not in str(caught.value)
    else:
        assert str(caught.value) == words


def test_the_object_of_the_wrong_kind_is_named_where_the_fields_all_have_defaults():
    """It would have been ignored."""

    def handler(options: Options):
        return options

    with pytest.raises(InvalidParameters, match=r"options\.tries"):
        bound(handler, {"options": {"tries": "many"}})


@pytest.mark.parametrize("parameters", [None, {}, {"other": 1}])
def test_a_default_is_what_it_is_in_python(parameters):
    """`Options | None = None` without any of its fields is None, not an empty Options."""

    def optional(options: Options | None = None):
        return options

    def given(options: Options = Options(fast=True)):  # noqa: B008
        return options

    def required_fields(order: Order | None = None):
        return order

    assert bound(optional, parameters) is None
    assert bound(given, parameters) == Options(fast=True)
    assert bound(required_fields, parameters) is None


def test_a_default_gives_way_to_what_is_given():
    """In either shape, and null is a value."""

    def handler(options: Options | None = Options(fast=True)):  # noqa: B008
        return options

    assert bound(handler, {"tries": 5}) == Options(attempts=5)
    assert bound(handler, {"options": {"attempts": 5}}).tries == 5
    assert bound(handler, {"options": None}) is None
    with pytest.raises(InvalidParameters, match="tries"):
        bound(handler, {"tries": "many"})


def test_an_empty_default_of_a_dict_stays_the_default():
    """Python's rule for a dict too."""

    def handler(params: dict = {"a": 1}):  # noqa: B006
        return params

    assert (bound(handler, {}), bound(handler, {"b": 2})) == ({"a": 1}, {"b": 2})


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    fast: bool = False


def test_a_model_that_forbids_extras_refuses_them_although_there_is_a_default():
    """The user's own rule comes first."""

    def handler(options: Closed | None = None):
        return options

    with pytest.raises(InvalidParameters, match="fats"):
        bound(handler, {"fats": True})


def test_keyword_arguments_are_validated_by_their_annotation():
    """`**kw: int` says that each is an int; PEP 692's Unpack says which there are."""

    def ints(ctx, a, **kw: int):
        return kw

    def unpacked(**kw: Unpack[Fast]):
        return kw

    assert bound(ints, {"a": 1, "b": "2", "ctx": 3}) == {"b": 2}
    with pytest.raises(InvalidParameters, match="b: Input should be a valid integer"):
        bound(ints, {"a": 1, "b": "x"})
    assert bound(unpacked, {"fast": "true"}) == {"fast": True}
    with pytest.raises(InvalidParameters, match="fast: Field required"):
        bound(unpacked, {})


class Before(BaseModel):
    total: int = 0

    @model_validator(mode="before")
    @classmethod
    def _sum(cls, data):
        return {"total": data["a"] + data["b"]}


def _named(ctx, a=1): ...
def _model(options: Options): ...
def _takes_all(params): ...
def _takes_rest(a=1, **rest): ...
def _before(before: Before): ...


def _strangers(caplog):
    return [found.parameters for found in caplog.records if found.getMessage() == "parameters_not_taken"]


@pytest.mark.parametrize(
    ("handler", "parameters", "strangers"),
    [
        (_named, {"a": 1, "n": 2, "b": 3}, [["b", "n"]]),
        (_model, {"attempts": 1, "retries": 2}, [["retries"]]),
        (_model, {"options": {"attempts": 1}, "retries": 2}, [["retries"]]),
        (_takes_all, {"a": 1}, []),
        (_takes_rest, {"b": 1}, []),
        (_before, {"a": 1, "b": 2}, []),
        (_named, {"a": 1, "model_pricing": {}, "workflow_budget_limit_usd": 1}, []),
        (_named, None, []),
    ],
)
def test_a_parameter_that_the_handler_does_not_take_is_named(handler, parameters, strangers, caplog):
    """A typo in an optional parameter was silent; parameters added by the engine are no typos (protocol.md §8.4)."""
    caplog.set_level(logging.WARNING)
    assert run_activity_sync(activity(name="work")(handler), parameters).output == {}
    assert _strangers(caplog) == strangers


def test_it_is_named_once_for_each_activity_and_never_with_its_value(caplog):
    """A busy worker's log would hold nothing else."""
    handler, environment = activity(name="work")(_named), RunEnvironment()
    for number in range(3):
        run_activity_sync(handler, {"n": "canary", "a": number}, environment=environment)
    run_activity_sync(handler, {"n": 1, "m": 2}, environment=environment)
    for number in range(200):
        run_activity_sync(handler, {f"x{number}": 1}, environment=environment)
    assert _strangers(caplog)[:2] == [["n"], ["m"]]
    assert len(_strangers(caplog)) == 20
    assert "canary" not in str([vars(record) for record in caplog.records])
