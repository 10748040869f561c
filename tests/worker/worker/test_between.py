"""A whole worker in virtual time, and somebody between it and the engine who answers in the engine's place."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from wire_kit import HTML, WiredWorker, on_the_wire

from flowherd.ledger import Cell
from flowherd.transport.transport import Reply

ELSEWHERE = {"location": "http://elsewhere.example/login"}
BETWEEN = {
    **{str(status): Reply(status, {}, HTML) for status in (401, 403, 404, 409, 451, 502)},
    **{str(status): Reply(status, ELSEWHERE, b"") for status in (302, 307)},
    "login page": Reply(200, {}, HTML),
    "broken JSON": Reply(200, {}, b'{"acknowledged": true, "war'),
    "not acknowledged": Reply(200, {}, b'{"acknowledged": false}'),
}
BLIPS = {
    **{
        str(status): Reply(status, ELSEWHERE, HTML)
        for status in (301, 308, 403, 404, 405, 407, 410, 431, 502)
    },
    "broken JSON": Reply(200, {}, b'{"activities": [{"activity_id": "'),
}
FORBIDDEN = BETWEEN["403"]


async def kept_from_the_engine(
    between: Reply, verbs: tuple[str, ...], seconds: float, limit_s: int = 60
) -> WiredWorker:
    """A worker whose activity has ended, and whom somebody answers for so long."""
    host = WiredWorker()
    item = on_the_wire(timeout_seconds=limit_s)
    await host.runs(item)
    host.wire.between, host.wire.verbs = between, verbs
    host.handlers.end(item["activity_id"])
    await asyncio.sleep(seconds)
    return host


@pytest.mark.parametrize("verbs", [("complete",), ("complete", "heartbeat"), ()], ids=["it", "beats", "all"])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@virtual_time
async def test_a_result_outlives_whoever_answers_for_longer_than_the_activity_may_run(
    between: Reply, verbs: tuple[str, ...]
) -> None:
    """N22, N23: 10 s for an activity of 6 s; with heartbeats that go through and with none."""
    host = await kept_from_the_engine(between, verbs, 10.0, limit_s=6)
    host.wire.between = None
    await asyncio.sleep(11.0)
    (done,) = host.wire.of("complete")
    assert done.body["output"] == {"by": on_the_wire()["activity_id"]}
    assert host.wire.of("fail") == host.wire.of("fail", stopped=True) == []
    assert len({repr(one.body) for one in host.wire.of("complete", stopped=True)}) == 1
    assert host.segment.get(Cell.COMPLETED) == 1


@pytest.mark.parametrize("between", [FORBIDDEN, BETWEEN["login page"], BETWEEN["not acknowledged"]])
@virtual_time
async def test_without_heartbeats_a_result_waits_for_the_end_of_the_outage(between: Reply) -> None:
    """N22: it became a failure that nobody took either, and was lost (protocol.md fact 7)."""
    host = await kept_from_the_engine(between, (), 3600.0)
    assert host.wire.of("fail", stopped=True) == []
    assert len(host.wire.of("complete", stopped=True)) < 900
    host.wire.between = None
    await asyncio.sleep(11.0)
    assert len(host.wire.of("complete")) == 1
    assert host.segment.get(Cell.COMPLETED) == 1


@virtual_time
async def test_with_heartbeats_a_result_becomes_a_retryable_failure_after_ten_minutes() -> None:
    """N22: the engine is there, and somebody minds these calls alone."""
    host = await kept_from_the_engine(FORBIDDEN, ("complete",), 599.0)
    assert host.wire.of("fail") == []
    await asyncio.sleep(30.0)
    (failed,) = host.wire.of("fail")
    assert (failed.body["error"]["code"], failed.body["error"]["retryable"]) == ("NOT_DELIVERED", True)


@virtual_time
async def test_a_result_and_its_failure_end_with_the_lease_if_neither_is_let_through() -> None:
    """N22: heartbeats would hold a slot and a lease for ever."""
    with capture_logs() as logs:
        host = await kept_from_the_engine(FORBIDDEN, ("complete", "fail"), 1190.0)
        assert "failure_given_up" not in [entry["event"] for entry in logs]
        await asyncio.sleep(60.0)
    assert [entry["event"] for entry in logs].count("failure_given_up") == 1
    assert host.segment.get(Cell.LOST) == 1


@pytest.mark.parametrize("blip", BLIPS.values(), ids=BLIPS)
@virtual_time
async def test_a_worker_polls_and_delivers_again_within_five_seconds_of_a_blip_of_four(blip: Reply) -> None:
    """N24: the poller, a result that was waiting, and the keeper's word on when polls wait."""
    host = await kept_from_the_engine(blip, (), 4.0)
    host.wire.between, over_at = None, now()
    await asyncio.sleep(40.0)
    (done,) = host.wire.of("complete")
    assert done.at - over_at <= 5.0
    assert min(one.at for one in host.wire.of("poll") if one.at > over_at) - over_at <= 5.0
