"""C10, C11: the token endpoint, and what a header opens (protocol.md §2)."""

from __future__ import annotations

import pytest

TOKEN = "/api/v1/oauth/token"


def code(reply) -> str:
    return reply.json()["error"]["code"]


@pytest.mark.parametrize("form", ["json", "data"])
def test_c10_good_credentials_get_a_token_that_opens_the_api(closed, form):
    http, client_id, secret = closed
    grant = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    reply = http.post(TOKEN, **{form: grant})
    assert reply.status_code == 200
    assert set(reply.json()) == {"access_token", "token_type", "expires_in"}
    headers = {"authorization": f"Bearer {reply.json()['access_token']}"}
    assert http.get("/api/v1/workflows", headers=headers).status_code == 200


@pytest.mark.parametrize("form", ["json", "data"])
def test_c10_wrong_credentials_are_a_401(engine, form):
    grant = {"grant_type": "client_credentials", "client_id": engine.name(), "client_secret": "x"}
    reply = engine.http.post(TOKEN, **{form: grant})
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        401,
        "Unauthorized: Invalid client credentials",
    )
    assert "www-authenticate" not in reply.headers


def test_c10_malformed_token_requests(engine):
    assert engine.http.post(TOKEN, content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    magic = engine.http.post(TOKEN, json={"grant_type": "magic"})
    assert (magic.status_code, magic.text.startswith("Invalid JSON: ")) == (400, True)
    missing = engine.http.post(TOKEN, data={"grant_type": "client_credentials"})
    assert (missing.status_code, code(missing)) == (400, "BAD_REQUEST")


def test_c11_no_header_is_fine_and_a_bad_one_is_not(engine):
    if engine.http.get("/health").json().get("insecure_dev") is not True:
        pytest.skip("this engine enforces tokens")
    assert engine.http.get("/api/v1/workflows").status_code == 200
    assert engine.http.get("/api/v1/workflows", headers={"authorization": "Basic x"}).status_code == 200
    bad = engine.http.get("/api/v1/workflows", headers={"authorization": "Bearer dummy"})
    assert (bad.status_code, code(bad)) == (401, "UNAUTHORIZED")
