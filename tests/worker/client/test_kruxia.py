"""The client of Kruxia Flow against an engine that plays scripts: what each kind of reply means."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_engine import Play, ScriptedEngine, envelope, scripted_engine

from flowherd.activities_and_outcomes import Completed, Failed, Usage
from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.client.kruxia import KruxiaEngine
from flowherd.errors import (
    EngineDisconnected,
    EngineError,
    EngineUnauthorized,
    EngineUnavailable,
    ForeignReply,
)

ID = "0193a1b2-0000-7000-8000-000000000001"


async def beat(client: KruxiaEngine, deadline_s: float = 5.0) -> Answer:
    return await client.heartbeat(ID, "w-1", deadline_s)


async def complete(client: KruxiaEngine, deadline_s: float = 5.0) -> Answer:
    return await client.complete(ID, client.encode_completion("w-1", Completed(b"{}")), deadline_s)


async def fail(client: KruxiaEngine, deadline_s: float = 5.0) -> Answer:
    return await client.fail(ID, client.encode_failure("w-1", Failed("C", "m", retryable=True)), deadline_s)


VERBS = {"heartbeat": beat, "complete": complete, "fail": fail}


# What is sent


async def test_requests_are_what_the_protocol_says(server: ScriptedEngine, client: KruxiaEngine) -> None:
    """protocol.md §4-§7, R12: no Authorization without a client id."""
    await client.poll("py", "w-1", 7, 5.0)
    for call in VERBS.values():
        await call(client)
    poll, *others = server.requests
    assert (poll.path, poll.json) == (
        "/api/v1/workers/poll",
        {"worker": "py", "worker_id": "w-1", "max_activities": 7},
    )
    assert [request.path for request in others] == [f"/api/v1/activities/{ID}/{verb}" for verb in VERBS]
    for request in server.requests:
        assert request.method == "POST"
        assert request.headers["content-type"] == "application/json"
        assert "authorization" not in request.headers


def test_a_completion_is_spliced_together_without_touching_the_output() -> None:
    engine = KruxiaEngine(None)  # type: ignore[arg-type]  # nothing is sent
    usage = (Usage("anthropic", "m", input_tokens=3), Usage("x", "y", cost_usd="0.25"))
    body = engine.encode_completion('w"1', Completed(b'{"a": 1.50}', cost_usd="0.015", usage=usage))
    assert body.startswith(b'{"worker_id":"w\\"1","output":{"a": 1.50},"cost_usd":"0.015","usage":[{')
    assert b'"cost_usd":"0.25"' in body
    assert b"null" not in body


def test_the_same_outcome_is_always_encoded_to_the_same_bytes() -> None:
    """protocol.md §6.4: identical bytes on every try."""
    engine = KruxiaEngine(None)  # type: ignore[arg-type]  # nothing is sent
    outcome = Completed(b'{"b":1,"a":2}', usage=(Usage("p", "m"),))
    assert len({engine.encode_completion("w-1", outcome) for _ in range(20)}) == 1


# Verdicts


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("play", "verdict"),
    [
        (Play(200), Verdict.ACCEPTED),
        (envelope(409, "CONFLICT", "Conflict: Activity claimed by different worker"), Verdict.GONE),
        (envelope(404, "NOT_FOUND", f"Not found: Activity '{ID}' not found"), Verdict.UNKNOWN),
        (Play(413, b"Failed to buffer the request body: length limit exceeded"), Verdict.TOO_LARGE),
        (Play(422, b"Failed to deserialize the JSON body into the target type: x"), Verdict.REFUSED),
        (envelope(422, "VALIDATION_ERROR", "Validation failed"), Verdict.REFUSED),
        (Play(400, b"Failed to parse the request body as JSON: x"), Verdict.REFUSED),
        (Play(415, b"Expected request with `Content-Type: application/json`"), Verdict.REFUSED),
    ],
    ids=["200", "409", "404", "413", "422 text", "422", "400", "415"],
)
async def test_replies_that_are_verdicts(
    server: ScriptedEngine, client: KruxiaEngine, verb: str, play: Play, verdict: Verdict
) -> None:
    """protocol.md §1.5."""
    server.always(verb, play)
    answer = await VERBS[verb](client)
    assert answer.verdict is verdict
    assert answer.detail.startswith(f"status {play.status}: ") == (verdict is not Verdict.ACCEPTED)


async def test_warnings_of_a_completion_are_passed_on(server: ScriptedEngine, client: KruxiaEngine) -> None:
    server.script("complete", Play(200, {"acknowledged": True, "warnings": ["unknown model", "another"]}))
    assert await complete(client) == Answer(Verdict.ACCEPTED, "unknown model; another")


@pytest.mark.parametrize(
    ("body", "will_retry"),
    [
        ({"acknowledged": True, "will_retry": True}, True),
        ({"acknowledged": True, "will_retry": False}, False),
        ({"acknowledged": True}, True),
        ({"acknowledged": True, "will_retry": "no"}, True),
    ],
)
async def test_the_receipt_of_a_failure_says_whether_there_is_another_attempt(
    server: ScriptedEngine,
    client: KruxiaEngine,
    body: Any,
    will_retry: bool,  # noqa: FBT001
) -> None:
    """protocol.md §7: the engine alone counts attempts."""
    server.script("fail", Play(200, body))
    assert await fail(client) == Answer(Verdict.ACCEPTED, will_retry=will_retry)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("play", "error", "in_doubt"),
    [
        (envelope(500, "INTERNAL_ERROR", "Internal server error"), EngineUnavailable, True),
        (Play(502, b"<html>bad gateway</html>"), EngineUnavailable, True),
        (envelope(503, "service_unavailable", "Server is shutting down"), EngineUnavailable, False),
        (Play(504, b""), EngineUnavailable, True),
        (Play(429, b"slow down"), EngineUnavailable, False),
        (Play(408, b""), EngineUnavailable, False),
        (envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid token"), EngineUnauthorized, False),
        (Play(403, b"forbidden"), ForeignReply, True),
        (Play(302, b"", {"location": "http://elsewhere.example/x"}), ForeignReply, True),
        (envelope(404, "NOT_FOUND", "Not found: The requested resource was not found"), ForeignReply, True),
    ],
    ids=[
        "500",
        "502",
        "503",
        "504",
        "429",
        "408",
        "401",
        "403",
        "302",
        "404 path",
    ],
)
async def test_replies_that_are_no_verdicts(
    server: ScriptedEngine,
    client: KruxiaEngine,
    verb: str,
    play: Play,
    error: type[EngineError],
    *,
    in_doubt: bool,
) -> None:
    """Faults E5, E10, E28: nothing but the engine's own words may cost a finished result."""
    server.always(verb, play)
    with pytest.raises(error) as raised:
        await VERBS[verb](client)
    assert str(play.status) in str(raised.value)
    assert raised.value.in_doubt is in_doubt
    assert raised.value.is_engines is (isinstance(play.body, dict) and "error" in play.body)


PROXYS = [
    b"",
    b"<html><h1>not here</h1></html>",
    b"Failed",
    b'{"error":"Activity \'x\' not found"}',
    b'{"error":{"code":413,"message":"too large"}}',
    b'{"message":"Failed to buffer the request body"}',
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422])
async def test_a_proxys_answer_is_no_verdict(
    server: ScriptedEngine, client: KruxiaEngine, verb: str, status: int
) -> None:
    """N7: only the envelope, or a text of the engine's framework, is the engine's (protocol.md §1.4)."""
    for body in PROXYS:
        server.script(verb, Play(status, body))
        with pytest.raises(ForeignReply, match=f"status {status}") as raised:
            await VERBS[verb](client)
        assert (raised.value.is_too_large, raised.value.in_doubt) == (status == 413, True)
        assert server.url in str(raised.value)


async def test_a_text_of_the_engines_counts_with_its_own_status_alone(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    """N7: a proxy that echoes one of them under another status has still not asked the engine."""
    server.always("complete", Play(400, b"Failed to buffer the request body: length limit exceeded"))
    with pytest.raises(ForeignReply):
        await complete(client)


@pytest.mark.parametrize("status", [301, 400, 403, 404, 405, 407, 409, 410, 413, 422, 431, 451])
async def test_a_proxys_answer_to_a_poll_says_something_about_all_calls(
    server: ScriptedEngine, client: KruxiaEngine, status: int
) -> None:
    """Faults E10, N7: an outage, named with URL and status."""
    server.always("poll", Play(status, b"<html></html>"))
    with pytest.raises(ForeignReply, match=f"{server.url}/api/v1/workers/poll: .*status {status}") as raised:
        await client.poll("py", "w-1", 1, 5.0)
    assert not raised.value.is_of_the_call


@pytest.mark.parametrize("verb", ["heartbeat", "complete", "poll"])
async def test_a_redirect_is_not_followed_and_its_target_is_named(
    server: ScriptedEngine, client: KruxiaEngine, verb: str
) -> None:
    """Faults E10, E11."""
    async with scripted_engine() as other:
        for status in (301, 302, 307, 308):
            server.script(verb, Play(status, b"", {"location": f"{other.url}/api/v1/workers/poll"}))
            with pytest.raises(ForeignReply) as raised:
                await (client.poll("py", "w-1", 1, 5.0) if verb == "poll" else VERBS[verb](client))
            assert other.url in str(raised.value)
            assert server.url in str(raised.value)
            assert str(status) in str(raised.value)
        assert other.requests == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "body",
    [b"", b'{"acknowledged": true,', b"<html>welcome to the hotel's network</html>", b"{}", b"null", b"[]"],
)
async def test_a_200_that_is_not_the_engines_is_no_acceptance(
    server: ScriptedEngine, client: KruxiaEngine, verb: str, body: bytes
) -> None:
    """Faults E15: a captive portal answers 200 to everything; a result must survive it."""
    server.always(verb, Play(200, body))
    with pytest.raises(EngineUnavailable, match="not an engine's reply"):
        await VERBS[verb](client)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("1e9", 1e9),
        ("junk", 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
    ],
)
async def test_retry_after_is_read_in_seconds_and_junk_ignored(
    server: ScriptedEngine, client: KruxiaEngine, value: str, expected: float
) -> None:
    """Faults E7, E29: a date would need a clock that both sides share."""
    server.always("complete", Play(503, b"", {"retry-after": value}))
    with pytest.raises(EngineUnavailable) as raised:
        await complete(client)
    assert raised.value.retry_after_s == expected


async def test_what_the_engine_says_is_one_clean_short_line(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    """Faults E15, S6: it goes into our log."""
    server.always("complete", Play(500, b"\x1b[31mred\x00\r\n injected: line\xff" + b"x" * 5000))
    with pytest.raises(EngineUnavailable) as raised:
        await complete(client)
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < 230


# Calls over a connection the engine has given up


@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_whose_connection_ended_is_said_to_be_in_doubt_and_is_no_two_calls(
    server: ScriptedEngine, client: KruxiaEngine, verb: str
) -> None:
    """Faults E4, E6: who calls through the circuit calls again at once; two tries in one would not be counted."""
    server.script(verb, Play(), Play(reset_after=0))
    await VERBS[verb](client)
    with pytest.raises(EngineDisconnected) as raised:
        await VERBS[verb](client)
    assert raised.value.in_doubt
    assert (await VERBS[verb](client)).verdict is Verdict.ACCEPTED
    first, second, third = server.of(verb)
    assert second.connection == first.connection
    assert third.connection != first.connection
    assert third.body == second.body


@pytest.mark.parametrize("verb", [*VERBS, "poll"])
async def test_connections_closed_while_idle_cost_nothing(
    server: ScriptedEngine, client: KruxiaEngine, verb: str
) -> None:
    """Faults E4: an engine that restarts closes what was kept alive."""
    await beat(client)
    await server.close_idle()
    await (client.poll("py", "w-1", 1, 5.0) if verb == "poll" else VERBS[verb](client))
    assert len(server.requests) == 2


async def test_streamed_text_is_sent_as_the_engine_takes_it(
    server: ScriptedEngine, client: KruxiaEngine
) -> None:
    """Protocol §10: the end of a stream is answered without a body."""
    server.always("token", Play(200, {"subscribers": 3}))
    server.always("complete", Play(200, b""))
    server.always("error", Play(200, b""))
    assert await client.stream_text(ID, "hé", 7, 5.0) == 3
    await client.stream_end(ID, None, 5.0)
    await client.stream_end(ID, "it broke", 5.0)
    sent = [(request.path.partition(ID)[2], request.json) for request in server.requests]
    assert sent == [
        ("/ws/token", {"text": "hé", "index": 7}),
        ("/ws/complete", {"result": None}),
        ("/ws/error", {"error": "it broke"}),
    ]


@pytest.mark.parametrize("reply", [Play(200, b"<html>"), Play(200, {}), Play(422, b"no"), Play(503)])
async def test_a_piece_that_is_not_taken_is_an_engine_error(
    server: ScriptedEngine, client: KruxiaEngine, reply: Play
) -> None:
    server.always("token", reply)
    with pytest.raises(EngineUnavailable):
        await client.stream_text(ID, "x", 0, 5.0)
