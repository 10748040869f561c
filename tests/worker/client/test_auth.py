"""The bearer: one request per expiry for the host, one replay after a 401, and never to another origin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from herd_kit import ID, SECRET, Herd
from pydantic import SecretStr
from scripted_engine import Play, ScriptedEngine, envelope, scripted_engine
from structlog.testing import capture_logs

from flowherd.activities_and_outcomes import Completed
from flowherd.client.bearer_tokens import BearerAuth, HostTokens, LedgerTokens, Token, ask_keeper
from flowherd.client.engine_protocol import Verdict
from flowherd.errors import EngineError, EngineUnauthorized, EngineUnavailable
from flowherd.ledger import Cell, Host, Ledger
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import new_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REFUSED = envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid token")


@pytest.fixture
async def herd(carried: ScriptedEngine) -> AsyncIterator[Herd]:
    herd = Herd(carried)
    yield herd
    await herd.aclose()


async def test_the_first_token_is_fetched_once_for_all(herd: Herd) -> None:
    results = await herd.all_beat()
    assert [answer.verdict for answer in results] == [Verdict.ACCEPTED] * 8
    assert len(herd.server.of("token")) == 1
    assert herd.sent() == ["Bearer token-1"] * 8
    (request,) = herd.server.of("token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert dict(httpx.QueryParams(request.body.decode())) == {
        "grant_type": "client_credentials",
        "client_id": "w1",
        "client_secret": SECRET,
    }
    assert "authorization" not in request.headers


async def test_calls_of_the_keeper_itself_share_one_request_too(server: ScriptedEngine) -> None:
    """Single flight: its heartbeats ask for the token all at once."""
    config = WorkerConfig(api_url=server.url, client_id="w1", client_secret=SecretStr(SECRET))
    ledger = Ledger(processes=1, records=1)
    async with new_client(server.url, None, connections=8) as http:
        tokens = HostTokens(config, ledger, http)
        first = await asyncio.gather(*(tokens.current() for _ in range(8)))
        assert len(server.of("token")) == 1
        await asyncio.gather(*(tokens.renewed(first[0]) for _ in range(8)))
        assert len(server.of("token")) == 2


async def test_an_expired_token_costs_one_request_for_eight_workers(herd: Herd) -> None:
    """Faults E8, scorecard M11."""
    await herd.all_beat()
    herd.server.script("heartbeat", *[REFUSED] * 8)
    results = await herd.all_beat()
    assert [answer.verdict for answer in results] == [Verdict.ACCEPTED] * 8
    assert len(herd.server.of("token")) == 2
    assert sorted(herd.sent()[8:]) == ["Bearer token-1"] * 8 + ["Bearer token-2"] * 8


async def test_a_refused_call_is_replayed_once_and_no_more(herd: Herd) -> None:
    """protocol.md §1.5: if the refreshed token is refused too, that is an outage."""
    herd.server.always("heartbeat", REFUSED)
    with pytest.raises(EngineUnauthorized, match="status 401"):
        await herd.clients[0].heartbeat(ID, "w-1", 5.0)
    assert herd.sent() == ["Bearer token-1", "Bearer token-2"]


async def test_a_replay_sends_the_same_body(herd: Herd) -> None:
    client = herd.clients[0]
    herd.server.script("complete", REFUSED)
    await client.complete(ID, client.encode_completion("w-1", Completed(b'{"n":1}')), 5.0)
    first, second = herd.server.of("complete")
    assert first.body == second.body


async def test_a_worker_that_was_refused_with_an_old_token_takes_the_one_already_there(herd: Herd) -> None:
    """The others refreshed meanwhile: no further request."""
    await herd.all_beat()
    herd.ledger.publish_token("token-from-elsewhere")
    tokens = LedgerTokens(herd.ledger, ask_keeper(herd.ledger.segments[0], herd.keeping.woken.set))
    assert (await tokens.renewed(Token(1, "token-1"))).value == "token-from-elsewhere"
    assert len(herd.server.of("token")) == 1


async def test_the_refused_version_in_a_segment_never_goes_back(herd: Herd) -> None:
    segment = herd.ledger.segments[0]
    segment.put(Cell.TOKEN_REFUSED, 5)
    herd.ledger.put(Host.TOKEN_VERSION, 9)
    herd.ledger.publish_token("new")
    await LedgerTokens(herd.ledger, ask_keeper(segment, lambda: None)).renewed(Token(3, "old"))
    assert segment.get(Cell.TOKEN_REFUSED) == 5


async def test_without_a_token_a_call_waits_and_then_counts_as_failed(server: ScriptedEngine) -> None:
    ledger = Ledger(processes=1, records=1)
    tokens = LedgerTokens(ledger, lambda _: None, patience_s=0.1)
    with pytest.raises(EngineUnauthorized, match=r"no new access token within 0\.1 s"):
        await tokens.current()
    asyncio.get_running_loop().call_later(0.02, ledger.publish_token, "late")
    assert (await tokens.current()).value == "late"


async def test_a_token_is_refreshed_before_it_expires(server: ScriptedEngine) -> None:
    """protocol.md §2.3: at about four fifths of its life."""
    now = [1000.0]
    config = WorkerConfig(api_url=server.url, client_id="w1", client_secret=SecretStr(SECRET))
    ledger = Ledger(processes=1, records=1)
    server.always("token", Play(200, {"access_token": "t", "expires_in": 1000}))
    async with new_client(server.url, None, connections=1) as http:
        tokens = HostTokens(config, ledger, http, clock=lambda: now[0])
        due_in_s = await tokens.refresh_if_wanted()
        assert 700 <= due_in_s <= 800
        now[0] += due_in_s - 1
        await tokens.refresh_if_wanted()
        assert len(server.of("token")) == 1
        now[0] += 2
        await tokens.refresh_if_wanted()
        assert len(server.of("token")) == 2
        assert ledger.token() == (2, "t")


async def test_a_call_with_a_token_does_not_wait_for_a_refresh_under_way(server: ScriptedEngine) -> None:
    """A slow token endpoint must not hold up heartbeats."""
    config = WorkerConfig(api_url=server.url, client_id="w1", client_secret=SecretStr(SECRET))
    ledger = Ledger(processes=1, records=1)
    async with new_client(server.url, None, connections=1) as http:
        tokens = HostTokens(config, ledger, http)
        first = await tokens.current()
        answered = asyncio.Event()
        server.script("token", Play(200, {"access_token": "token-2"}, hold=answered))
        refresh = asyncio.create_task(tokens.renewed(first))
        await server.asked("token", 2)
        async with asyncio.timeout(1.0):
            assert (await tokens.current()).value == "token-1"
        answered.set()
        assert (await refresh).value == "token-2"


@pytest.mark.parametrize(
    ("play", "error"),
    [
        (envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid client credentials"), EngineUnauthorized),
        (envelope(500, "INTERNAL_ERROR", "x"), EngineUnavailable),
        (Play(302, b"", {"location": "http://127.0.0.1:1/"}), EngineUnavailable),
        (Play(200, b"<html>"), EngineUnavailable),
        (Play(200, {"token_type": "Bearer"}), EngineUnavailable),
        (Play(200, {"access_token": ""}), EngineUnavailable),
        (Play(200, {"access_token": "a\r\nx-evil: 1"}), EngineUnavailable),
        (Play(200, {"access_token": "t" * 20_000}), EngineUnavailable),
        (Play(200, {"access_token": 7}), EngineUnavailable),
        (Play(200, b"x" * (2 << 20)), EngineUnavailable),
        (Play(200, {"access_token": "t"}, {"content-encoding": "gzip"}), EngineUnavailable),
        (Play(reset_after=0), EngineUnavailable),
        (Play(reset_after=60), EngineUnavailable),
    ],
)
async def test_whatever_the_token_endpoint_says_is_a_token_or_an_outage(
    server: ScriptedEngine, play: Play, error: type[EngineError]
) -> None:
    """Faults E9, protocol.md fact 19: 401 may be an outage of its database."""
    config = WorkerConfig(api_url=server.url, client_id="w1", client_secret=SecretStr(SECRET))
    ledger = Ledger(processes=1, records=1)
    server.always("token", play)
    async with new_client(server.url, None, connections=1) as http:
        tokens = HostTokens(config, ledger, http)
        with pytest.raises(error) as raised:
            await tokens.current()
    assert SECRET not in str(raised.value)
    assert ledger.token() == (0, "")
    assert not tokens.ever_granted


async def test_an_outage_of_the_endpoint_is_survived_and_said_once(server: ScriptedEngine) -> None:
    """Faults E9: after the first grant a 401 is an outage, never a reason to exit."""
    with capture_logs() as logs:
        herd = Herd(server, workers=1)
        await herd.all_beat()
        server._scripts["token"].clear()
        server.script("token", envelope(401, "UNAUTHORIZED", "x"), Play(200, {"access_token": "again"}))
        server.script("heartbeat", REFUSED)
        (answer,) = await herd.all_beat()
        assert answer.verdict is Verdict.ACCEPTED
        await herd.aclose()
    assert herd.gave_up == []
    assert [entry["event"] for entry in logs].count("token_not_granted") == 1


async def test_credentials_that_were_never_accepted_are_given_up_after_the_grace(
    server: ScriptedEngine,
) -> None:
    """Exit code 4 of supervisor/docs/exit-codes.md."""
    server.always("token", envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid client credentials"))
    herd = Herd(server, workers=1)
    server._scripts["token"].clear()
    await server.asked("token", 1)
    async with asyncio.timeout(5.0):
        await herd.has_given_up.wait()
    assert "KRUXIAFLOW_CLIENT_SECRET" in herd.gave_up[0]
    await herd.aclose()


class OneToken:
    def known(self) -> None:
        return None

    async def current(self) -> Token:
        return Token(1, "token-canary")

    async def renewed(self, refused: Token) -> Token:
        return Token(2, "token-canary-2")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_authorization_never_goes_to_another_origin_even_if_redirects_were_followed(
    server: ScriptedEngine, status: int
) -> None:
    """Faults E11: another port is another origin."""
    async with scripted_engine() as other:
        server.script("poll", Play(status, b"", {"location": f"{other.url}/api/v1/workers/poll"}))
        auth = BearerAuth(OneToken(), server.url)
        async with httpx.AsyncClient(
            base_url=server.url, auth=auth, trust_env=False, follow_redirects=True
        ) as client:
            await client.post("/api/v1/workers/poll", content=b"{}")
        assert server.requests[0].headers["authorization"] == "Bearer token-canary"
        assert len(other.requests) == 1
        assert "authorization" not in other.requests[0].headers


async def test_a_request_to_another_origin_gets_no_token(server: ScriptedEngine) -> None:
    async with scripted_engine() as other:
        auth = BearerAuth(OneToken(), server.url)
        async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
            await client.post(f"{other.url}/x", content=b"{}")
        assert "authorization" not in other.requests[0].headers


def test_secrets_show_in_no_representation() -> None:
    """Faults S7."""
    config = WorkerConfig(client_id="w1", client_secret=SecretStr(SECRET))
    ledger = Ledger(processes=1, records=1)
    ledger.publish_token("token-canary")
    tokens = HostTokens(config, ledger, httpx.AsyncClient())
    shown = [repr(thing) for thing in (config, Token(1, "token-canary"), tokens, ledger, ledger.segments[0])]
    assert not [text for text in shown if "canary" in text]


async def test_secrets_reach_no_log_whatever_goes_wrong(
    server: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Faults S7, protocol.md R15: with everything at debug."""
    caplog.set_level("DEBUG")
    herd = Herd(server, workers=2)
    server.script("heartbeat", REFUSED, Play(reset_after=0), Play(500, b"x"), REFUSED, REFUSED)
    for _ in range(3):
        await herd.all_beat()
    await herd.aclose()
    assert SECRET not in caplog.text
    assert "token-1" not in caplog.text


def test_a_known_token_is_read_once_for_each_version() -> None:
    """Every call needs it: reading and checking it anew costs as much as sending the call."""
    ledger = Ledger(processes=1, records=2)
    tokens = LedgerTokens(ledger, lambda _: None)
    assert tokens.known() is None
    ledger.publish_token("one")
    first = tokens.known()
    assert first == Token(1, "one")
    assert tokens.known() is first
    ledger.publish_token("two")
    assert tokens.known() == Token(2, "two")


# Secrets are rotated while hosts run


WRONG_SECRET = envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid client credentials")


def _secrets_sent(server: ScriptedEngine) -> list[str]:
    return [httpx.QueryParams(request.body.decode())["client_secret"] for request in server.of("token")]


async def test_the_secrets_file_is_read_again_when_the_token_endpoint_refuses(
    server: ScriptedEngine, tmp_path: Path
) -> None:
    """Without it every rotation of a secret would be a restart of every host."""
    file = tmp_path / "secret"
    file.write_text("new\n")
    config = WorkerConfig(
        api_url=server.url, client_id="w1", client_secret=SecretStr("old"), client_secret_file=file
    )
    server.script(
        "token", WRONG_SECRET, Play(200, {"access_token": "t-1"}), Play(200, {"access_token": "t-2"})
    )
    async with new_client(server.url, None, connections=2) as http:
        tokens = HostTokens(config, Ledger(processes=1, records=1), http)
        assert (await tokens.current()).value == "t-1"
        await tokens.renewed(Token(1, "t-1"))
    assert _secrets_sent(server) == ["old", "new", "new"]


@pytest.mark.parametrize(("content", "said"), [("old", "check --client-id"), ("", "the file is empty")])
async def test_a_secrets_file_that_holds_nothing_new_costs_no_second_request(
    server: ScriptedEngine, tmp_path: Path, content: str, said: str
) -> None:
    """A 401 may be anything, even an outage of the engine's database."""
    file = tmp_path / "secret"
    file.write_text(content)
    config = WorkerConfig(
        api_url=server.url, client_id="w1", client_secret=SecretStr("old"), client_secret_file=file
    )
    server.always("token", WRONG_SECRET)
    async with new_client(server.url, None, connections=2) as http:
        with pytest.raises(EngineUnauthorized, match=said):
            await HostTokens(config, Ledger(processes=1, records=1), http).current()
    assert _secrets_sent(server) == ["old"]
