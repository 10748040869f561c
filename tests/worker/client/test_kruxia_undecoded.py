"""Parameters that are only passed on, to an isolate, stay the JSON they came as; all else is read as ever."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

from flowherd.client.engine_protocol import Batch
from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.errors import EngineUnavailable

NAMES = frozenset({"heavy"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def an_item(number: int, **fields: Any) -> dict[str, Any]:
    item = {
        "activity_id": f"a-{number}",
        "workflow_id": "w",
        "activity_key": "k",
        "activity_name": "heavy",
        "worker": "py-std",
        "parameters": {"n": number},
        "timeout_seconds": 5,
    }
    return item | fields


def body_of(items: Any) -> bytes:
    return json.dumps({"activities": items, "count": 1}).encode()


def opened(batch: Batch) -> Batch:
    """The same with all parameters decoded."""
    activities = [
        replace(activity, parameters=msgspec.json.decode(activity.parameters))
        if isinstance(activity.parameters, msgspec.Raw)
        else activity
        for activity in batch.activities
    ]
    return Batch(activities, batch.undecodable)


def test_only_the_named_ones_stay_as_they_came_and_share_the_replys_memory():
    body = body_of([an_item(1), an_item(2, activity_name="light"), an_item(3)])
    first, second, third = decode_batch(body, "w-1", NAMES).activities
    assert bytes(memoryview(first.parameters)) == b'{"n": 1}'
    assert second.parameters == {"n": 2}
    assert memoryview(third.parameters).obj is not None
    assert (first.activity_id, first.timeout_s, first.key) == ("a-1", 5.0, "k")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda number, changes: an_item(number) | dict(changes),
            st.integers(1, 9),
            st.lists(st.tuples(st.sampled_from([*an_item(0), "settings", "signal_data"]), JSON), max_size=3),
        )
        | JSON,
        max_size=4,
    )
)
def test_whatever_comes_is_read_as_if_everything_were_decoded(items):
    """Also what is flawed: one bad item costs no other."""
    body = body_of(items)
    with capture_logs():
        plain, kept = decode_batch(body, "w-1"), opened(decode_batch(body, "w-1", NAMES))
    assert kept.activities == plain.activities
    assert [item.activity_id for item in kept.undecodable] == [item.activity_id for item in plain.undecodable]


def test_parameters_that_are_missing_are_none():
    item = an_item(1)
    del item["parameters"]
    (activity,) = decode_batch(body_of([item]), "w-1", NAMES).activities
    assert activity.parameters is None


def test_a_number_out_of_range_costs_its_own_item_at_most():
    """The isolate checks the parameters; everything else is checked here."""
    bad = body_of([an_item(1), "SPOILT"]).replace(
        b'"SPOILT"', b'{"activity_id": "a-2", "timeout_seconds": 1e999}'
    )
    batch = decode_batch(bad, "w-1", NAMES)
    assert [activity.activity_id for activity in batch.activities] == ["a-1"]
    assert [item.activity_id for item in batch.undecodable] == ["a-2"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"activities": 7}', b"<html>"])
def test_what_is_no_reply_is_an_outage_all_the_same(body):
    with pytest.raises(EngineUnavailable):
        decode_batch(body, "w-1", NAMES)
