"""C14: streamed text is accepted from any worker for any activity, and its end has an empty reply (protocol.md §10)."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flowherd.client.kruxia import connect
from flowherd.settings.worker_config import WorkerConfig


def post(engine, verb, body, activity_id=None):
    return engine.http.post(f"/api/v1/activities/{activity_id or uuid4()}/ws/{verb}", json=body)


def test_c14_a_token_is_answered_with_the_number_of_subscribers(engine):
    item = engine.flow({"key": "a"}).claim()
    for activity_id in (item["activity_id"], None):
        reply = post(engine, "token", {"text": "a", "index": 0}, activity_id)
        assert (reply.status_code, reply.json()) == (200, {"subscribers": 0})


@pytest.mark.parametrize(("verb", "body"), [("complete", {"result": None}), ("error", {"error": "e"})])
def test_c14_the_end_of_a_stream_is_answered_without_a_body(engine, verb, body):
    reply = post(engine, verb, body)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize(
    "body",
    [{"text": "a", "index": -1}, {"text": "a", "index": 2**32}, {"text": 1, "index": 0}, {"text": "a"}],
)
def test_c14_a_piece_of_another_shape_is_refused(engine, body):
    assert post(engine, "token", body).status_code == 422


def test_c14_without_subscribers_the_count_is_0(engine):
    assert engine.http.get(f"/api/v1/activities/{uuid4()}/ws/subscribers").json() == {"count": 0}


async def test_c14_our_client_streams_to_it(engine):
    """From the first piece to either end."""
    if engine.http.get("/health").json().get("insecure_dev") is not True:
        pytest.skip("this engine enforces tokens")
    client = connect(WorkerConfig(api_url=str(engine.http.base_url)), None, connections=2)
    try:
        assert await client.stream_text(str(uuid4()), "héllo", 0, 5.0) == 0
        await client.stream_end(str(uuid4()), None, 5.0)
        await client.stream_end(str(uuid4()), "it broke", 5.0)
    finally:
        await client.aclose()
