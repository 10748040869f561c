"""The rows E1-E23 of the fault catalogue as a whole worker meets them over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from engine_rig import brings, item, working
from scripted_engine import Play, ScriptedEngine, envelope
from structlog.testing import capture_logs

from flowherd.ledger import Cell

pytestmark = pytest.mark.usefixtures("carried")

CONFLICT = envelope(409, "CONFLICT", "Conflict: Activity claimed by different worker")


def said(logs: list, event: str) -> list:
    return [entry for entry in logs if entry["event"] == event]


async def test_e1_an_engine_that_comes_back_is_worked_for_again_and_said_twice(
    server: ScriptedEngine,
) -> None:
    server.script("poll", *[Play(reset_after=0)] * 4, brings(item()))
    with capture_logs() as logs:
        async with working(server):
            await server.asked("complete")
    assert len(said(logs, "engine_unreachable")) == 1
    assert len(said(logs, "engine_reachable_again")) == 1


@pytest.mark.parametrize("n", [0, 1, 20, 60, 90])
async def test_e2_a_poll_reply_cut_at_byte_n_is_named_and_never_replayed_under_its_worker_id(
    server: ScriptedEngine, n: int
) -> None:
    server.script("poll", Play(200, brings(item()).body, reset_after=n), brings(item(2)))
    with capture_logs() as logs:
        async with working(server) as rig:
            await server.asked("complete")
            ids = rig.worker_ids()
    assert [entry["worker_id"] for entry in said(logs, "poll_in_doubt")] == ids[:1]
    assert len(set(ids)) == len(ids)
    assert rig.begun == [2]


@pytest.mark.parametrize("n", [0, 1, 20, 60, 90])
async def test_e2_a_completion_whose_reply_is_cut_at_byte_n_is_repeated_with_the_same_bytes(
    server: ScriptedEngine, n: int
) -> None:
    server.script("poll", brings(item()))
    server.script("complete", *[Play(reset_after=n)] * 3)
    async with working(server) as rig:
        await server.asked("complete", 4)
    assert len({request.body for request in server.of("complete")}) == 1
    assert rig.codes() == {}


async def test_e3_a_reply_at_a_byte_a_second_meets_the_deadline(server: ScriptedEngine) -> None:
    server.script("poll", Play(trickle_s=1.0), brings(item()))
    with capture_logs() as logs:
        async with working(server, call_deadline_s=0.3):
            await server.asked("complete")
    assert "no complete reply within 0.3 s" in said(logs, "poll_in_doubt")[0]["reason"]


async def test_e4_connections_the_engine_gave_up_cost_a_completion_nothing(server: ScriptedEngine) -> None:
    server.script("poll", brings(item(1, "hold")))
    with capture_logs() as logs:
        async with working(server) as rig:
            await server.asked("poll", 2)
            await server.close_idle()
            rig.held.set()
            await server.asked("complete")
    assert len(server.of("complete")) == 1
    assert rig.segment.get(Cell.COMPLETED) == 1
    assert len(said(logs, "engine_unreachable")) <= 1


@pytest.mark.parametrize("verb", ["complete", "fail"])
async def test_e4_a_report_whose_connection_dies_is_repeated_at_once_and_is_no_outage(
    server: ScriptedEngine, verb: str
) -> None:
    """Commit, then drop."""
    server.script("poll", brings(item(1, "echo" if verb == "complete" else "nobody knows it")))
    server.script(verb, Play(reset_after=0))
    with capture_logs() as logs:
        async with working(server):
            await server.asked(verb, 2)
    first, second = server.of(verb)
    assert first.body == second.body
    assert not said(logs, "engine_unreachable")


async def test_e5_a_burst_of_503_keeps_results_and_fails_nothing(server: ScriptedEngine) -> None:
    server.script("poll", brings(*(item(number) for number in range(1, 5))))
    server.script("complete", *[Play(503, b"")] * 6)
    async with working(server) as rig:
        await server.asked("complete", 10)
    assert {number for number, _ in rig.told("complete")} == {1, 2, 3, 4}
    assert rig.codes() == {}


async def test_e6_a_500_after_the_commit_is_retried_until_200(server: ScriptedEngine) -> None:
    """protocol.md fact 11: the only cure of a row that is completed without its event."""
    server.script("poll", brings(item()))
    server.script("complete", *[envelope(500, "DATABASE_ERROR", "Database error: x")] * 3)
    async with working(server) as rig:
        await server.asked("complete", 4)
    assert rig.codes() == {}
    assert len({request.body for request in server.of("complete")}) == 1


async def test_e7_a_retry_after_is_honoured_and_junk_is_not(server: ScriptedEngine) -> None:
    loop = asyncio.get_running_loop()
    server.script("poll", Play(429, b"", {"retry-after": "junk"}), Play(503, b"", {"retry-after": "1"}))
    async with working(server):
        await server.asked("poll", 2)
        begun = loop.time()
        await server.asked("poll", 3)
    assert 0.9 <= loop.time() - begun <= 2.5


async def test_e10_an_engine_that_redirects_is_named_with_url_and_status(server: ScriptedEngine) -> None:
    server.always("poll", Play(302, b"", {"location": "http://127.0.0.1:1/login"}))
    with capture_logs() as logs:
        async with working(server):
            await server.asked("poll", 3)
    (entry,) = said(logs, "engine_misconfigured")
    assert f"POST {server.url}/api/v1/workers/poll: " in entry["reason"]
    assert "status 302: http://127.0.0.1:1/login" in entry["reason"]


async def test_e12_a_409_on_a_heartbeat_cancels_the_handler_and_nothing_is_reported(
    server: ScriptedEngine,
) -> None:
    server.script("poll", brings(item(1, "hold", timeout_seconds=1)))
    server.always("heartbeat", CONFLICT)
    async with working(server) as rig:
        await rig.heeded.wait()
        assert rig.segment.get(Cell.LOST) == 1
    assert (rig.told("complete"), rig.told("fail")) == ([], [])
    assert rig.segment.get(Cell.RUNNING) == 0


async def test_p10_a_host_that_slept_through_its_leases_drops_them_all_and_goes_on_with_new_work(
    server: ScriptedEngine,
) -> None:
    """After a suspend every beat is answered by 409: no report, no burst, free slots."""
    held = [item(number, "hold", timeout_seconds=1) for number in range(1, 5)]
    server.script("poll", brings(*held), brings(item(9)))
    server.script("heartbeat", *[CONFLICT] * 4)
    async with working(server) as rig:
        await server.asked("complete")
        assert rig.segment.get(Cell.LOST) == 4
    assert [number for number, _ in rig.told("complete")] == [9]
    assert rig.told("fail") == []
    assert sorted(number for number, _ in rig.told("heartbeat")) == [1, 2, 3, 4]


async def test_e13_a_409_on_a_completion_is_dropped_and_counted(server: ScriptedEngine) -> None:
    server.script("poll", brings(item()))
    server.always("complete", CONFLICT)
    with capture_logs() as logs:
        async with working(server) as rig:
            await server.asked("complete")
            await server.asked("poll", 3)
    assert rig.codes() == {}
    assert rig.segment.get(Cell.LOST) == 1
    assert len(said(logs, "completion_not_ours_any_more")) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"activities":', b"\xff\xfe", b"[]", b"7"])
async def test_e15_a_poll_reply_of_garbage_is_an_outage(server: ScriptedEngine, body: bytes) -> None:
    server.script("poll", Play(200, body), brings(item()))
    async with working(server):
        await server.asked("complete")


async def test_e15_a_200_of_a_captive_portal_is_no_acceptance(server: ScriptedEngine) -> None:
    server.script("poll", brings(item()))
    server.script("complete", Play(200, b"<html>please log in</html>"))
    async with working(server) as rig:
        await server.asked("complete", 2)
    assert rig.codes() == {}


async def test_e16_one_bad_item_costs_no_other(server: ScriptedEngine) -> None:
    bad = item(2, activity_name=["no name"])
    server.script("poll", brings(item(1), bad, "no item", item(3)))
    async with working(server) as rig:
        await server.asked("complete", 2)
        await server.asked("fail")
    assert sorted(rig.begun) == [1, 3]
    assert rig.codes() == {2: "INVALID_ACTIVITY"}


async def test_e17_unknown_fields_are_ignored(server: ScriptedEngine) -> None:
    server.script("poll", brings(item(priority=7, settings={"shiny": {}}), server_time="2026-11-24"))
    async with working(server):
        await server.asked("complete")


async def test_e18_an_activity_handed_out_again_runs_once_under_the_newest_claim(
    server: ScriptedEngine,
) -> None:
    server.script("poll", brings(item(1, "hold"), item(1, "hold")), brings(item(1, "hold")))
    async with working(server) as rig:
        await server.asked("poll", 3)
        rig.held.set()
        await server.asked("complete")
        newest = rig.worker_ids()[1]
    assert rig.begun == [1]
    assert [body["worker_id"] for _, body in rig.told("complete")] == [newest]


async def test_e19_thirty_items_for_one_slot_are_all_run_and_beaten(server: ScriptedEngine) -> None:
    """Seen on a real server: a poll for one activity returned thirty."""
    server.script("poll", brings(*(item(number, timeout_seconds=1) for number in range(1, 31))))
    async with working(server, concurrency=1, poll_max=10) as rig:
        await server.asked("complete", 30)
    assert server.of("poll")[0].json["max_activities"] == 1
    assert sorted(rig.begun) == list(range(1, 31))
    assert rig.codes() == {}


async def test_e19_items_beyond_all_records_are_handed_back_at_once(server: ScriptedEngine) -> None:
    server.script("poll", brings(*(item(number, "hold") for number in range(1, 41))))
    async with working(server, concurrency=1, poll_max=10) as rig:
        await server.asked("fail", 5)
        assert set(rig.codes().values()) == {"WORKER_OVERLOADED"}
        rig.held.set()
        await server.asked("complete", 35)


async def test_e20_the_list_counts_and_not_its_count(server: ScriptedEngine) -> None:
    server.script("poll", brings(item(1), item(2), count=0))
    async with working(server):
        await server.asked("complete", 2)


async def test_e21_forty_megabytes_of_parameters_run(server: ScriptedEngine) -> None:
    server.script("poll", brings(item(parameters={"n": 1, "ballast": "x" * (40 << 20)})))
    async with working(server):
        await server.asked("complete")


async def test_e22_a_lease_of_a_second_is_beaten_at_once(server: ScriptedEngine) -> None:
    server.script("poll", brings(item(1, "hold", timeout_seconds=1), item(2, "hold", timeout_seconds=0)))
    async with working(server) as rig:
        await server.asked("heartbeat", 2)
        assert {number for number, _ in rig.told("heartbeat")} == {1, 2}


@pytest.mark.parametrize("seconds", [None, -1, 10**18, 1.5, "60", "soon", True, [], 10**400])
async def test_e23_any_timeout_is_a_lease(server: ScriptedEngine, seconds: object) -> None:
    server.script("poll", brings(item(timeout_seconds=seconds)))
    async with working(server):
        await server.asked("complete")
