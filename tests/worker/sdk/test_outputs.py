"""Outputs are checked before they are sent: the engine refuses late or stores wrongly (protocol.md §6.5)."""

import enum
import json
import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from flowherd import ActivityResult, InvalidOutput
from flowherd.sdk.output import MAX_OUTPUT_BYTES, encode_output


def sent(value):
    return json.loads(encode_output(value))


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Item(BaseModel):
    name: str
    when: datetime
    tags: set[str] = set()


@dataclass
class Pair:
    left: int
    right: object = None


Row = namedtuple("Row", "a b")  # noqa: PYI024  # users return them


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        (None, {}),
        ({}, {}),
        ({"a": 1}, {"a": 1}),
        (5, {"result": 5}),
        ("text", {"result": "text"}),
        ([1, 2], {"result": [1, 2]}),
        ((1, "b"), {"result": [1, "b"]}),
        (Row(1, 2), {"result": [1, 2]}),
        (Pair(1, Pair(2)), {"left": 1, "right": {"left": 2, "right": None}}),
        (
            Item(name="x", when=datetime(2026, 1, 2, tzinfo=UTC), tags={"t"}),
            {"name": "x", "when": "2026-01-02T00:00:00Z", "tags": ["t"]},
        ),
        (RootModel[list[int]]([1]), {"result": [1]}),
        (MappingProxyType({"a": OrderedDict(b=1)}), {"a": {"b": 1}}),
        (ActivityResult.value("x", 1), {"x": 1}),
        (ActivityResult.values({"x": 1}, y=2), {"x": 1, "y": 2}),
        (True, {"result": True}),
        ("\\u0000 spelt out", {"result": "\\u0000 spelt out"}),
    ],
)
def test_what_a_handler_returns_becomes_an_object(returned, output):
    assert sent(returned) == output


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), str(UUID(int=1))),
        (Path("/x/y"), "/x/y"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(seconds=90), "PT1M30S"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00Z"),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
    ],
)
def test_known_types_go_as_pydantics_json_mode_writes_them(value, written):
    assert sent({"a": [value]}) == {"a": [written]}


class _Module:
    """Instances whose class says that it is NumPy's or pandas'; neither is installed here."""

    @staticmethod
    def value(library, name, base=object, **attributes):
        return type(name, (base,), {"__module__": f"{library}.core", **attributes})()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (_Module.value("numpy", "int64", ndim=0, tolist=lambda _: 1), "int(x)"),
        (_Module.value("numpy", "float64", float, ndim=0), "float(x)"),
        (_Module.value("numpy", "bool", ndim=0), "bool(x)"),
        (_Module.value("numpy", "ndarray", ndim=1, tolist=lambda _: []), ".tolist()"),
        (_Module.value("pandas", "Timestamp", isoformat=lambda _: ""), ".isoformat()"),
        (_Module.value("pandas", "NAType"), "None"),
        (
            _Module.value("pandas", "DataFrame", columns=(), to_dict=lambda _: {}, ndim=2),
            '.to_dict(orient="records")',
        ),
        (b"x", "base64"),
        ({1}, "sorted(x)"),
        (1j, "x.real"),
        (object(), "object, not JSON"),
        (int, "send its name"),
        (lambda: 1, "function, not JSON"),
    ],
)
def test_what_is_no_json_is_named_with_path_and_conversion(value, words):
    """A1: the path, and what to write instead."""
    with pytest.raises(InvalidOutput) as caught:
        encode_output({"rows": [{"ok": 1}, {"odd key": value}]})
    assert "$.rows[1]['odd key'] " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "is nan"),
        (math.inf, "is inf"),
        (-math.inf, "is -inf"),
        (float("1e999"), "is inf"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({1: 2}, "key of type int"),
        ({None: 2}, "key of type NoneType"),
        ({"a\0": 1}, "NUL"),
        ({"\udfff": 1}, "surrogate"),
    ],
)
def test_what_the_engine_refuses_or_stores_wrongly_is_found_here(value, words):
    """A2: a NUL makes the server hang the workflow, a big integer becomes a float."""
    for output in ({"a": value}, {"a": [value]}, {"a": {"b": (value,)}}, {"z": Decimal(1), "a": value}):
        with pytest.raises(InvalidOutput, match=r"^\$\.a") as caught:
            encode_output(output)
        assert words in str(caught.value)


def _nested(levels):
    value = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


def test_an_output_of_119_levels_is_sent_and_one_of_120_is_not():
    """The envelope is one more level; serde stops at 128."""
    assert sent(_nested(119))
    with pytest.raises(InvalidOutput, match="deeper than 120"):
        encode_output(_nested(120))


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_depth_is_found_without_recursion(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    with pytest.raises(InvalidOutput, match="deeper than 120"):
        encode_output(value)


def test_a_cycle_is_named():
    cycle: dict[str, object] = {}
    cycle["self"] = [cycle]
    with pytest.raises(InvalidOutput, match=r"\$.self\[0\] contains itself"):
        encode_output(cycle)


@pytest.mark.parametrize("leaf", [1, Decimal(1)])
def test_shared_containers_that_unfold_beyond_any_body_end_soon(leaf):
    """Forty lists that each hold the next one twice are a million million values."""
    value: list[object] = [leaf]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(InvalidOutput, match="too many values"):
        encode_output({"a": value})


def test_one_small_container_sent_many_times_is_no_bomb():
    """Rows that share a default are common."""
    shared = {"a": [1, 2]}
    assert len(sent({"rows": [shared] * 60_000})["rows"]) == 60_000


def test_an_output_over_50_mb_is_refused_with_the_remedy():
    with pytest.raises(InvalidOutput, match=r"52 MB.*upload"):
        encode_output({"a": "x" * MAX_OUTPUT_BYTES})
    assert len(encode_output({"a": "x" * (MAX_OUTPUT_BYTES - 100)})) <= MAX_OUTPUT_BYTES


TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc\\u0", max_size=4), JSON))
def test_every_json_object_arrives_as_it_was(output):
    assert sent(output) == output


HOSTILE = st.recursive(
    JSON
    | st.floats()
    | st.text(st.sampled_from("a\0\ud800é"))
    | st.integers()
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.datetimes()
    | st.sets(st.integers()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@settings(derandomize=True, max_examples=120, deadline=None)
@given(HOSTILE)
def test_whatever_is_returned_is_sent_as_strict_json_or_refused(value):
    """A1, A2: nothing but InvalidOutput, and nothing the engine would refuse."""

    def refuse(constant):
        raise AssertionError(constant)

    try:
        body = encode_output({"a": value})
    except InvalidOutput:
        return
    assert "\0" not in json.dumps(json.loads(body, parse_constant=refuse), ensure_ascii=False)


def test_results_take_cost_metadata_and_usage_and_return_themselves():
    """The stock SDK's shapes: `ActivityResult.value(…).with_cost(…)`."""
    result = ActivityResult.value("x", 1)
    assert result.with_cost(Decimal("0.5")).with_metadata({"m": 1}) is result
    assert (result.cost_usd, result.metadata, result.is_error) == (Decimal("0.5"), {"m": 1}, False)
    error = ActivityResult.error("no stock", "OUT_OF_STOCK", retryable=False)
    assert error.failure == ("OUT_OF_STOCK", "no stock", False)
    assert repr(error) == "<ActivityResult error OUT_OF_STOCK>"
