"""How parameters become arguments, as the interface's section on handlers says."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from flowherd import ActivityContext, InvalidParameters, RegistryError, SyncActivityContext
from flowherd.sdk.parameter_binding import Binding

if TYPE_CHECKING:
    from collections import OrderedDict

CONTEXT = object()


def bound(handler, parameters):
    """What the handler returns when it is called with what was bound."""
    positional, keywords = Binding.of(handler).bind(parameters, CONTEXT)
    return handler(*positional, **keywords)


class Order(BaseModel):
    item: str
    count: int = 1


class Options(TypedDict):
    fast: bool


@dataclass
class Point:
    x: int
    y: int


def _ctx_first(ctx, data):
    return ctx, data


def _ctx_last(data, ctx):
    return ctx, data


def _annotated(data, context: ActivityContext):
    return context, data


def _annotated_as_text(data, context: "SyncActivityContext | None"):
    return context, data


def _keyword_only(data, *, ctx):
    return ctx, data


@pytest.mark.parametrize("handler", [_ctx_first, _ctx_last, _annotated, _annotated_as_text, _keyword_only])
def test_the_context_comes_by_annotation_or_name_wherever_it_stands(handler):
    assert bound(handler, {"data": [1]}) == (CONTEXT, [1])


def _params(params):
    return params


def _any_dict(data: dict[str, Any]):
    return data


def _bare_dict(data: dict):
    return data


def _model(order: Order):
    return order.model_dump()


def _typed_dict(options: Options):
    return options


@pytest.mark.parametrize("handler", [_params, _any_dict, _bare_dict])
def test_a_single_params_or_dict_gets_all_parameters(handler):
    given_parameters = {"a": 1, "b": {"c": 2}}
    assert bound(handler, given_parameters) == given_parameters


def test_a_model_gets_all_parameters_validated_and_extras_are_let_through():
    """The engine itself adds parameters to some activities (protocol.md §8.4)."""
    assert bound(_model, {"item": "nail", "count": "3", "model_pricing": {}}) == {"item": "nail", "count": 3}


def test_a_typed_dict_gets_all_parameters():
    assert bound(_typed_dict, {"fast": True}) == {"fast": True}


def _by_name(
    when: datetime,
    who: UUID,
    kind: Literal["a", "b"],
    point: Point,
    at_least: Annotated[int, Field(ge=1)] = 1,
):
    return when, who, kind, point, at_least


def test_parameters_are_bound_by_name_and_validated_by_annotation():
    got = bound(
        _by_name,
        {
            "when": "2026-01-02T03:04:05Z",
            "who": str(UUID(int=7)),
            "kind": "b",
            "point": {"x": 1, "y": "2"},
            "other": 1,
        },
    )
    assert got == (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), UUID(int=7), "b", Point(1, 2), 1)


def test_everything_that_is_wrong_is_named_at_once_by_path():
    with pytest.raises(InvalidParameters) as caught:
        bound(_by_name, {"when": "x", "who": 3, "point": {"x": "a"}, "at_least": 0})
    text = str(caught.value)
    for path in (
        "when: ",
        "who: ",
        "kind: Field required",
        "point.x: ",
        "point.y: Field required",
        "at_least: ",
    ):
        assert path in text
    assert (caught.value.code, caught.value.retryable) == ("INVALID_PARAMETERS", False)


def test_a_wrong_null_is_called_so_since_a_missing_input_of_a_workflow_is_one():
    with pytest.raises(InvalidParameters) as caught:
        bound(_by_name, {"when": None, "who": 3, "kind": "a", "point": {"x": None}})
    text = str(caught.value)
    assert "when: Input should be a valid datetime, not null; " in text
    assert "point.x: Input should be a valid integer, not null; point.y: Field required" in text
    assert text.count("null") == 2


def test_the_rest_goes_into_keyword_arguments():
    def handler(a, **rest):
        return a, rest

    assert bound(handler, {"a": 1, "b": 2, "c": 3}) == (1, {"b": 2, "c": 3})


def test_defaults_fill_what_is_missing_and_none_is_no_parameters():
    def handler(a=1, b=2):
        return a, b

    assert bound(handler, None) == (1, 2)


@pytest.mark.parametrize("parameters", [[1], "text", 3, True])
def test_parameters_that_are_no_object_are_refused(parameters):
    with pytest.raises(InvalidParameters, match="must be an object"):
        bound(_params, parameters)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    when: datetime


def test_a_strict_model_takes_what_json_can_say():
    """Parameters came as JSON: text is the only way to write a datetime there."""

    def handler(order: Strict):
        return order.when.year

    assert bound(handler, {"when": "2026-01-02T03:04:05Z"}) == 2026


def _star(*args): ...
def _two_contexts(ctx, other: ActivityContext): ...
def _unknown_class(data: "OrderedDict[str, int]", n: int): ...
def _no_schema(client: type("Client", (), {})): ...


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_star, r"\*args cannot be bound"),
        (_two_contexts, "two contexts"),
        (_unknown_class, "import it unconditionally"),
        (_no_schema, "nothing pydantic can validate"),
    ],
)
def test_signatures_no_activity_can_be_called_with_are_refused(handler, words):
    with pytest.raises(RegistryError, match=words):
        Binding.of(handler)


class Touchy(BaseModel):
    secret: int
    kind: Literal["a"]
    text: str = Field(max_length=3)

    @field_validator("secret", mode="before")
    @classmethod
    def _quote(cls, value):
        raise ValueError(f"bad value {value}")


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.uuids().map(lambda u: f"canary-{u}"), min_size=3, max_size=3))
def test_no_value_ever_appears_in_the_message(canaries):
    """A11: pydantic prints input values, and custom validators quote them; parameters may hold secrets."""

    def handler(order: Touchy): ...

    with pytest.raises(InvalidParameters) as caught:
        bound(handler, dict(zip(("secret", "kind", "text"), canaries, strict=True)))
    assert "canary" not in str(caught.value)
    assert "secret: is not valid (value_error)" in str(caught.value)


PLAN = Binding.of(_by_name)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
)
def test_any_json_object_binds_or_is_refused_cleanly(parameters):
    """Hostile parameters must not raise anything but InvalidParameters."""
    try:
        PLAN.bind(parameters, CONTEXT)
    except InvalidParameters as failure:
        assert "Field required" in str(failure)  # noqa: PT017  # every drawn object lacks most fields
