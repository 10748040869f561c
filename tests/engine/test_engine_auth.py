"""Tokens: protocol.md §2, C10 and C11."""

from __future__ import annotations

import jwt
import pytest

TOKEN = "/api/v1/oauth/token"
GRANT = {"grant_type": "client_credentials", "client_id": "c", "client_secret": "s3cret"}


@pytest.fixture
async def closed(make_api):
    return await make_api(client_id="c", client_secret="s3cret", token_ttl_s=100)


async def token(api, **form):
    return await api.http.post(TOKEN, data={**GRANT, **form})


@pytest.mark.parametrize("form", ["json", "data"])
async def test_a_token_is_granted_to_both_content_types_and_opens_the_api(closed, form):
    reply = await closed.http.post(TOKEN, **{form: GRANT})
    assert reply.status_code == 200
    assert set(reply.json()) == {"access_token", "token_type", "expires_in"}
    assert (reply.json()["token_type"], reply.json()["expires_in"]) == ("Bearer", 100)
    headers = {"authorization": f"bearer {reply.json()['access_token']}"}
    assert (await closed.http.get("/api/v1/workflows", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "header",
    [None, "Basic abc", "Bearer ", "Bearer x", "Bearer " + jwt.encode({"exp": 1}, "k" * 32, "HS256")],
)
async def test_without_a_good_token_a_closed_engine_answers_401(closed, header):
    reply = await closed.http.get("/api/v1/workflows", headers={"authorization": header} if header else {})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "UNAUTHORIZED"
    assert "www-authenticate" not in reply.headers


async def test_a_token_ends_with_its_time(closed):
    headers = {"authorization": f"Bearer {(await token(closed)).json()['access_token']}"}
    await closed.advance(99)
    assert (await closed.http.get("/api/v1/workflows", headers=headers)).status_code == 200
    await closed.advance(12)  # and a tenth of leeway
    reply = await closed.http.get("/api/v1/workflows", headers=headers)
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        401,
        "Unauthorized: Invalid token: Token expired",
    )


async def test_a_token_survives_a_restart_and_another_secret_does_not_accept_it(make_api, closed):
    headers = {"authorization": f"Bearer {(await token(closed)).json()['access_token']}"}
    same = await make_api(client_id="c", client_secret="s3cret")
    other = await make_api(client_id="c", client_secret="another")
    assert (await same.http.get("/api/v1/workflows", headers=headers)).status_code == 200
    assert (await other.http.get("/api/v1/workflows", headers=headers)).status_code == 401


async def test_an_open_engine_wants_no_header_and_still_refuses_a_bad_one(api):
    """C11: protocol.md §2.2."""
    assert (await api.http.get("/api/v1/workflows")).status_code == 200
    basic = await api.http.get("/api/v1/workflows", headers={"authorization": "Basic abc"})
    bad = await api.http.get("/api/v1/workflows", headers={"authorization": "Bearer dummy"})
    assert (basic.status_code, bad.status_code) == (200, 401)
    assert (await api.http.get("/health")).json() == {"status": "ok", "insecure_dev": True}


async def test_a_closed_engine_does_not_mention_insecure_dev(closed):
    assert (await closed.http.get("/health")).json() == {"status": "ok"}
    assert "insecure_dev" not in (await closed.http.get("/api/v1/info")).json()
    assert (await closed.http.get("/health/ready")).json()["status"] == "ready"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"client_secret": "wrong"}, "Invalid client credentials"),
        ({"client_id": "nobody"}, "Invalid client credentials"),
        ({"grant_type": "password", "username": "u", "password": "p"}, "Invalid username or password"),
        ({"grant_type": "refresh_token", "refresh_token": "r"}, "Invalid or expired refresh token"),
    ],
)
async def test_every_wrong_credential_is_a_401(closed, form, message):
    reply = await token(closed, **form)
    assert (reply.status_code, reply.json()["error"]["message"]) == (401, f"Unauthorized: {message}")


async def test_an_open_engine_grants_no_token(api):
    assert (await token(api)).status_code == 401


async def test_malformed_token_requests_are_refused_in_their_shapes(closed):
    """protocol.md §2.3: unlike elsewhere, a wrong type in JSON is a 400."""
    none = await closed.http.post(TOKEN, content=b"x", headers={"content-type": "text/plain"})
    assert (none.status_code, none.text.startswith("Content-Type must be application/json or ")) == (
        415,
        True,
    )
    for body in ({"grant_type": 1}, {"grant_type": "magic"}, {}):
        reply = await closed.http.post(TOKEN, json=body)
        assert (reply.status_code, reply.text.startswith("Invalid JSON: ")) == (400, True)
    reply = await closed.http.post(TOKEN, data={"x": "1"})
    assert (reply.status_code, reply.text.startswith("Invalid form data: ")) == (400, True)
    reply = await closed.http.post(TOKEN, json={"grant_type": "client_credentials"})
    assert (reply.status_code, "client_id is required" in reply.json()["error"]["message"]) == (400, True)
    assert "s3cret" not in repr(closed.engine.settings)
