"""Outputs that are models and dataclasses: what pydantic would send wrongly, or not at all, is refused by its path."""

import collections
import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    computed_field,
    field_serializer,
    model_serializer,
)

from flowherd import InvalidOutput
from flowherd.sdk.nan_check import may_lose_numbers
from flowherd.sdk.output import encode_output
from flowherd.testing import run_activity_sync


class Reading(BaseModel):
    exact: float = 0.0
    loose: Any = None
    rows: list[Any] = []
    named: dict[str, Any] = {}


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    loose: Any = Field(serialization_alias="Loose")


class More(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclass
class Sample:
    value: Any = None
    reading: Reading = field(default_factory=Reading)


class Readings(RootModel[list[Any]]):
    """Its root is no object."""


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (Reading(exact=math.nan), "$.exact"),
        (Reading(loose=math.nan), "$.loose"),
        (Reading(loose=-math.inf), "$.loose"),
        (Reading(rows=[1, None, {"x": math.nan}]), "$.rows[2].x"),
        (Reading(named={"inner": Reading(loose=math.nan)}), "$.named.inner.loose"),
        (Sample(math.nan), "$.value"),
        (Sample(reading=Reading(loose=math.nan)), "$.reading.loose"),
        (Aliased(loose=math.nan), "$.Loose"),
        (Reading(named={"by number": {7: math.nan}}), "$.named['by number']['7']"),
        ({"rows": [Reading(loose=math.nan)]}, "$.rows[0].loose"),
        (More(extra=math.nan), "$.extra"),
        (Readings([1, math.nan]), "$[1]"),
        (Reading(loose=collections.deque([1, math.nan])), "$.loose[1]"),
        (Reading(loose={math.inf}), "$.loose[0]"),
        (Reading(loose=frozenset([math.inf])), "$.loose[0]"),
        ([Reading(named={"odd key": math.inf})], "$.result[0].named['odd key']"),
    ],
)
def test_a_number_that_json_has_not_is_named_in_any_field(output, path):
    """Pydantic writes null for one in a field of type Any: the engine would keep a hole in place of the fault."""
    with pytest.raises(InvalidOutput) as caught:
        encode_output(output)
    assert str(caught.value).startswith(f"{path} is ")
    assert "JSON has no such number" in str(caught.value)


class Typed(BaseModel):
    type: str = "a"
    default: int | None = None
    settings: dict[str, float | None] = {}
    inner: "list[Typed]" = []


@pytest.mark.parametrize(
    ("kind", "is_searched"),
    [(Typed, False), (Reading, True), (Readings, True), (More, True), (RootModel[list[Typed]], False)],
)
def test_models_whose_values_all_have_types_are_not_searched(kind, is_searched):
    """Pydantic keeps a number that is typed; the search costs as much as six dumps."""
    assert may_lose_numbers({"a": None}, kind) is is_searched
    assert not may_lose_numbers({"a": 1}, kind)


class Nulled(BaseModel):
    by_method: Any = math.nan
    by_type: Annotated[Any, PlainSerializer(lambda _: None, when_used="json")] = math.nan
    nothing: Any = None

    @field_serializer("by_method", when_used="json")
    def _null(self, value):
        return None


def test_a_serializer_of_the_users_may_write_null():
    """The user's serializer is explicit."""
    assert json.loads(encode_output(Nulled())) == {"by_method": None, "by_type": None, "nothing": None}


class Broken(BaseModel):
    fine: int = 1
    price: int = 2

    @field_serializer("price")
    def _boom(self, value):
        raise LookupError("no such currency")


class Computed(BaseModel):
    fine: int = 1

    @computed_field
    @property
    def total(self) -> int:
        raise LookupError("no such currency")


class Whole(BaseModel):
    fine: int = 1

    @model_serializer
    def _boom(self):
        raise LookupError("no such currency")


class Basket(BaseModel):
    items: list[Any] = []


class Prices(RootModel[list[Any]]):
    """Its root is written alone."""


@dataclass
class Unset:
    price: int = field(init=False)

    def __getattr__(self, name):
        raise AttributeError("no such currency")


class Rows(dict):
    def items(self):
        raise LookupError("no such currency")


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (Broken(), "$.price"),
        (Computed(), "$.total"),
        (Whole(), "$"),
        (Prices([1, Broken()]), "$[1].price"),
        (Basket(items=[1, Broken()]), "$.items[1].price"),
        ({"rows": [Computed()]}, "$.rows[0].total"),
        (Unset(), "$.price"),
        ({"rows": Rows(a=1)}, "$.rows"),
    ],
)
def test_a_serializer_that_raises_is_an_invalid_output_with_its_path(output, path):
    """It was an EXECUTION_ERROR without a place, and the engine would have tried it again in vain."""
    failure = run_activity_sync(returning(output)).failure
    assert (failure.code, failure.retryable) == ("INVALID_OUTPUT", False)
    assert failure.message.startswith(f"{path} cannot be written: ")
    assert "no such currency" in failure.message


def returning(output):
    def returns() -> Any:
        return output

    return returns


def test_a_model_that_holds_itself_is_named():
    """The search for the place of a fault ends."""
    basket = Basket()
    basket.items.append(basket)
    with pytest.raises(InvalidOutput, match=r"^\$\.items"):
        encode_output(basket)


@pytest.mark.parametrize("kind", [Reading, Sample, dict, int])
@pytest.mark.parametrize(
    ("wrapped", "path"), [(lambda kind: kind, "$.result"), (lambda kind: {"a": [kind]}, "$.a[0]")]
)
def test_a_class_in_place_of_an_instance_is_named(kind, wrapped, path):
    """A dataclass's fields have defaults, which were sent as if they had been an instance's."""
    with pytest.raises(InvalidOutput) as caught:
        encode_output(wrapped(kind))
    assert str(caught.value).startswith(f"{path} is the class {kind.__name__}, not JSON: ")
