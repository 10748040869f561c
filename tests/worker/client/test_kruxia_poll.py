"""Poll replies of all kinds: what is an activity, what can be failed; one bad item costs no other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import Play, ScriptedEngine, envelope
from structlog.testing import capture_logs

from flowherd.client.engine_protocol import Batch
from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.errors import EngineMisconfigured, EngineUnavailable, ReplyTooLarge

if TYPE_CHECKING:
    from flowherd.client.kruxia import KruxiaEngine

ID = "0193a1b2-0000-7000-8000-000000000001"


async def test_a_poll_that_is_refused_names_the_engine(server: ScriptedEngine, client: KruxiaEngine) -> None:
    server.always("poll", envelope(422, "VALIDATION_ERROR", "Validation failed"))
    with pytest.raises(EngineMisconfigured, match=f"{server.url} refuses to be polled: status 422"):
        await client.poll("py", "w-1", 1, 5.0)


async def test_a_poll_reply_beyond_the_limit_names_type_size_and_flag(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    """Faults E15."""
    server.always("poll", Play(200, {"activities": [], "filler": "x" * (1 << 20)}))
    with pytest.raises(
        ReplyTooLarge, match="5 activities of type 'py': more than 1 MB: see --max-reply-mb"
    ) as raised:
        await client.poll("py", "w-1", 5, 5.0)
    assert raised.value.in_doubt


async def test_other_replies_beyond_a_megabyte_are_not_read(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    server.always("complete", Play(200, b"x" * (2 << 20)))
    with pytest.raises(ReplyTooLarge):
        await client.complete(ID, b"{}", 5.0)


async def test_the_same_bytes_without_activities_bring_nothing_again_and_others_are_read(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    """An idle host gets the same reply repeatedly; its cache must match no other."""
    nothing, spaced = b'{"activities":[],"count":0}', b'{"activities": [], "count": 0}'
    one = json.dumps({"activities": [an_item()], "count": 1}).encode()
    server.script("poll", *(Play(200, body) for body in (nothing, nothing, spaced, one, nothing, b"")))
    for expected in (0, 0, 0, 1, 0):
        assert len((await client.poll("py", "w-1", 1, 5.0)).activities) == expected
    with pytest.raises(EngineUnavailable):
        await client.poll("py", "w-1", 1, 5.0)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"activities": 7}', b'{"activities": null}']
)
async def test_an_unreadable_poll_reply_is_an_outage_in_doubt(
    server: ScriptedEngine, client: KruxiaEngine, body: bytes
) -> None:
    """protocol.md fact 2: whatever it claimed stays claimed."""
    server.always("poll", Play(200, body))
    with pytest.raises(EngineUnavailable) as raised:
        await client.poll("py", "w-1", 1, 5.0)
    assert raised.value.in_doubt


async def test_a_poll_is_never_replayed(server: ScriptedEngine, client: KruxiaEngine) -> None:
    """Faults E2, E4: the lost reply may have brought claims."""
    server.script("poll", Play(reset_after=0))
    with pytest.raises(EngineUnavailable) as raised:
        await client.poll("py", "w-1", 1, 5.0)
    assert raised.value.in_doubt
    assert len(server.of("poll")) == 1


async def test_items_without_an_id_are_counted_in_the_log(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    server.always("poll", Play(200, {"activities": [{}, 7, None]}))
    with capture_logs() as logs:
        batch = await client.poll("py", "w-1", 1, 5.0)
    assert (batch.activities, batch.undecodable) == ([], [])
    assert logs == [{"event": "activities_without_id", "log_level": "error", "count": 3, "worker_id": "w-1"}]


# Items


def an_item(**fields: Any) -> dict[str, Any]:
    """An item as the engine sends it (protocol.md §4)."""
    return {
        "activity_id": ID,
        "workflow_id": "0193a1b2-0000-7000-8000-00000000000f",
        "activity_key": "resize",
        "worker": "py",
        "activity_name": "resize_image",
        "parameters": {"w": 640},
        "settings": {"timeout_seconds": 120, "cache": False},
        "timeout_seconds": 120,
        **fields,
    }


def decode(*items: Any, **fields: Any):
    return decode_batch(json.dumps({"activities": items, **fields}).encode(), "w-1")


def test_an_item_is_decoded_with_everything_it_says() -> None:
    outputs = [{"name": "thumb", "type": "file"}]
    (activity,) = decode(an_item(output_definitions=outputs, signal_data={"approved": True})).activities
    assert (activity.activity_id, activity.key, activity.name) == (ID, "resize", "resize_image")
    assert (activity.worker_type, activity.worker_id) == ("py", "w-1")
    assert (activity.parameters, activity.timeout_s) == ({"w": 640}, 120.0)
    assert activity.output_definitions == ({"name": "thumb", "type": "file"},)
    assert activity.signal_data == {"approved": True}
    assert activity.settings["timeout_seconds"] == 120


@pytest.mark.parametrize("signal_data", ["a string", 7, [1, 2], None, False, {"a": 1}])
def test_signal_data_may_be_any_json(signal_data: Any) -> None:
    """The stock SDK types it as an object and loses the batch (KW:25-37)."""
    (activity,) = decode(an_item(signal_data=signal_data)).activities
    assert activity.signal_data == signal_data


def test_the_list_counts_and_not_its_count() -> None:
    """Faults E20."""
    assert len(decode(an_item(), count=99).activities) == 1


def test_unknown_fields_are_ignored() -> None:
    """Faults E17: a newer engine must not stop an older worker."""
    assert len(decode(an_item(priority=7, settings={"new": {}}), next_poll_ms=5).activities) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (120, 120.0),
        (2.5, 2.5),
        ("90", 90.0),
        (0, 1.0),
        (-5, 1.0),
        (0.25, 1.0),
        (10**18, 604_800.0),
        (10**400, None),
        ("soon", None),
        (True, None),
        ([60], None),
        ({}, None),
    ],
)
def test_a_timeout_is_clamped_to_something_that_can_be_kept(value: Any, expected: float | None) -> None:
    """Faults E23; null means the engine's default lease, never unlimited (protocol.md fact 3)."""
    with capture_logs() as logs:
        (activity,) = decode(an_item(timeout_seconds=value)).activities
    assert activity.timeout_s == expected
    assert len(logs) == (value not in (None, 120, 2.5, "90"))


@pytest.mark.parametrize(
    "bad",
    [
        {"workflow_id": None},
        {"activity_key": 7},
        {"worker": []},
        {"activity_name": ["x"]},
    ],
)
def test_an_item_with_wrong_types_can_be_failed_and_the_others_run(bad: dict[str, Any]) -> None:
    """Faults E16, protocol.md R4."""
    batch = decode(an_item(activity_id="good-1"), an_item(activity_id="bad-1", **bad), an_item())
    assert [activity.activity_id for activity in batch.activities] == ["good-1", ID]
    (item,) = batch.undecodable
    assert (item.activity_id, item.worker_id) == ("bad-1", "w-1")
    assert next(iter(bad)) in item.reason
    names = an_item(activity_id="bad-1", **bad)
    known = (names["workflow_id"], names["activity_key"], names["activity_name"])
    shown = tuple(name if isinstance(name, str) else "" for name in known)
    assert (item.workflow_id, item.key, item.name) == shown, "for the log: as much as can be read"


@pytest.mark.parametrize(
    "activity_id",
    ["", "..", "../../oauth/token", "a/b", "a?b", "a#b", "a b", "a\n", "%2e%2e", "x" * 200, 7, None],
)
def test_an_id_that_could_lead_elsewhere_is_no_id(activity_id: Any) -> None:
    """It becomes a part of a path, with our bearer on it."""
    batch = decode(an_item(activity_id=activity_id))
    assert (batch.activities, batch.undecodable) == ([], [])


def test_an_activity_without_a_name_is_an_activity() -> None:
    """protocol.md §4: activity_name may be empty or left out."""
    item = an_item()
    del item["activity_name"]
    batch = decode(item, an_item(activity_name=""), an_item(activity_name=None))
    assert [activity.name for activity in batch.activities] == [
        "", "", "",
    ]  # fmt: skip


def test_large_and_deep_parameters_are_passed_on_whole() -> None:
    """Faults E21."""
    deep: Any = 1
    for _ in range(120):
        deep = [deep]
    key = "k" * (1 << 20)
    (activity,) = decode(an_item(parameters={key: deep, "text": "x" * (8 << 20)})).activities
    assert activity.parameters[key] == deep
    assert len(activity.parameters["text"]) == 8 << 20


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*an_item(), "signal_data", "output_definitions"]), JSON), max_size=4)
)
def test_no_mutation_of_an_item_costs_its_neighbours(mutations: list[tuple[str, Any]]) -> None:
    """Faults E16, scorecard M13."""
    mutated = an_item(activity_id="mutated")
    mutated.update(mutations)
    batch = decode(an_item(activity_id="first"), mutated, an_item(activity_id="last"))
    ids = [activity.activity_id for activity in batch.activities]
    assert (ids[0], ids[-1]) == ("first", "last")
    if mutated["activity_id"] == "mutated":
        assert len(ids) + len(batch.undecodable) == 3


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps({"activities": value}).encode()))
def test_no_body_breaks_the_poller(body: bytes) -> None:
    """Faults E15, scorecard M13: a batch or an outage, nothing else."""
    with contextlib.suppress(EngineUnavailable):
        decode_batch(body, "w-1")


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"activity_name": None, "settings": None, "output_definitions": None, "timeout_seconds": None},
        {"timeout_seconds": 0.25, "settings": {"cache": False}, "signal_data": "yes", "parameters": [1, 2.5]},
        {
            "timeout_seconds": 10**30,
            "output_definitions": [{"name": "a", "type": "file"}],
            "unknown": {"a": 1},
        },
        {"timeout_seconds": True, "parameters": {"n": 2**70}},
        {"output_definitions": ["a", {"name": "b"}], "settings": []},
    ],
)
def test_a_reply_that_is_read_in_one_go_says_the_same_as_one_whose_items_are_read_alone(extra) -> None:
    """The short way may only be short."""
    item = {
        "activity_id": "a-1",
        "workflow_id": "w",
        "activity_key": "k",
        "worker": "py",
        "activity_name": "n",
    }
    body = json.dumps({"activities": [item | extra, item | {"activity_id": "a-2"}], "count": 2}).encode()
    alone = decode_batch(body, "p-1", frozenset({"some other"}))
    assert decode_batch(body, "p-1") == alone
    assert [activity.activity_id for activity in alone.activities] == ["a-1", "a-2"]


@pytest.mark.parametrize("activity_id", ["../a", "", "a b", "a\n", "x" * 129, "\u00e9"])
def test_an_id_that_could_not_be_part_of_a_path_is_no_id_on_the_short_way_either(activity_id) -> None:
    item = {"activity_id": activity_id, "workflow_id": "w", "activity_key": "k", "worker": "py"}
    assert decode_batch(json.dumps({"activities": [item]}).encode(), "p-1") == Batch([], [])


_KEPT = """
import gc, sys
from flowherd.client.kruxia_poll_replies import decode_batch
body = sys.argv[1].encode()
decode_batch(body, "w-1")
gc.collect()
before = sys.getallocatedblocks()
batches = [decode_batch(body, "w-1") for _ in range(500)]
assert all(len(batch.activities) == 1 for batch in batches)
del batches
gc.collect()
print(sys.getallocatedblocks() - before)
"""


def test_batches_that_have_been_dropped_leave_nothing_in_the_interpreters_caches() -> None:
    """A pattern of msgspec's is searched by a name that is new each time, and a cache of thousands keeps each."""
    words = [sys.executable, "-c", _KEPT, json.dumps({"activities": [an_item()], "count": 1})]
    kept = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert int(kept) < 100
